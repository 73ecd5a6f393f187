"""`BucketMargin` decides which codes flip, to the last one, as seen by the attacks themselves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from _ranks import run_ranks
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm
from torch.testing import assert_close

from lightning_unlearn import NPO, GradientAscent, Quantize
from lightning_unlearn.edits import BucketMargin
from lightning_unlearn.functional.grids import pinned
from lightning_unlearn.readouts import ClassificationReadout
from lightning_unlearn.selectors import AtLeast, TopNumber, TopShare

INT4 = Quantize(bits=4)
SEVERAL = [Quantize(4, group_size=32), Quantize(4, group_size=16, codebook="nf4"), Quantize(8)]


def network(seed: int = 3) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(32, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 3))


def batches(seed: int, size: int = 8) -> list[Any]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(size, 32, generator=generator), torch.randint(0, 3, (size,), generator=generator))
        for _ in range(3)
    ]


def apply(edit: BucketMargin, net: nn.Module, size: int = 8) -> Any:
    return edit(net, forget=batches(1, size), retain=batches(2, size), readout=ClassificationReadout())


def matrices(net: nn.Module) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in net.named_parameters() if p.dim() > 1}


def drifted(net: nn.Module, by: float) -> nn.Module:
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(by * torch.randn(p.shape, generator=generator))
    return net


def flips(before: dict[str, Tensor], after: dict[str, Tensor], attack: Quantize) -> dict[str, Tensor]:
    return {n: attack.codes(after[n]).int() - attack.codes(before[n]).int() for n in before}


def test_as_many_codes_flip_as_are_chosen_and_each_the_way_that_forgets() -> None:
    net = network()
    before = matrices(net)
    loss = sum(F.cross_entropy(net(x), y) for x, y in batches(1)) / 3
    gradient = dict(zip(before, torch.autograd.grad(loss, [net.get_parameter(n) for n in before]), strict=True))
    apply(BucketMargin([INT4], TopNumber(200), price=0.0), net)
    found = flips(before, matrices(net), INT4)
    assert sum(int((f != 0).sum()) for f in found.values()) == 200
    assert all(f.abs().max() <= 1 for f in found.values())
    # Up the gradient of the loss: what must go becomes less likely.
    assert all((f * gradient[n] >= 0).all() for n, f in found.items())


def test_the_chosen_have_the_highest_gain_less_price_by_hand() -> None:
    net, price = network(), 0.7
    before = matrices(net)
    names, params = list(before), [net.get_parameter(n) for n in before]
    down = torch.autograd.grad(sum(-F.cross_entropy(net(x), y) for x, y in batches(1, 1)) / 3, params)
    each = [torch.autograd.grad(F.cross_entropy(net(x), y), params) for x, y in batches(2, 1)]
    fisher = [sum(g[i].square() for g in each) / len(each) for i in range(len(params))]
    scores = []
    for name, g, h in zip(names, down, fisher, strict=True):
        jump = before[name].abs().amax(1, keepdim=True) / 7
        codes = (before[name] / jump).round()
        possible = ((codes - g.sign()).abs() <= 7) & ~pinned(before[name], [INT4.grid]) & (g != 0)
        scores.append(((g.abs() * jump - price / 2 * h * jump**2) * possible).flatten())
    expected = torch.cat(scores).argsort(descending=True)[:100]
    apply(BucketMargin([INT4], TopNumber(100), price=price), net, size=1)
    found = flips(before, matrices(net), INT4)
    assert set(torch.cat([f.flatten() for f in found.values()]).nonzero().flatten().tolist()) == set(expected.tolist())


def test_the_dearer_the_fewer_flips_are_worth_their_price() -> None:
    counts = []
    for price in (0.0, 1.0, 100.0, 1e6):
        net = network()
        before = matrices(net)
        apply(BucketMargin([INT4], TopShare(1.0), price=price), net)
        counts.append(sum(int((f != 0).sum()) for f in flips(before, matrices(net), INT4).values()))
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > 2 * counts[-1]


@pytest.mark.parametrize("drift", [0.0, 2e-3, 0.05])
def test_after_a_fit_codes_are_those_of_the_original_and_what_the_fit_has_flipped(drift: float) -> None:
    """The scale of each group is the original's, whatever the fit has done to it."""
    original = matrices(network())
    edit = BucketMargin([INT4], TopNumber(300), price=0.0)
    net = network()
    edit.see_original(net)
    drifted(net, drift)
    moved = matrices(net)
    apply(edit, net)
    after = matrices(net)
    for name, before in original.items():
        grid, scales = INT4.grid, INT4.grid.scales(before)
        assert torch.equal(grid.scales(after[name]), scales)
        edge = pinned(before, [grid])
        assert torch.equal(after[name][edge], before[edge])
        as_moved = grid.codes(moved[name], scales) == grid.codes(after[name], scales)
        differs = grid.codes(before, scales) != grid.codes(after[name], scales)
        assert (as_moved | differs | edge).all()
    total = sum(int((f != 0).sum()) for f in flips(original, after, INT4).values())
    assert total >= 300
    if not drift:
        assert total == 300


@pytest.mark.parametrize("drift", [0.0, 2e-3, 0.05])
def test_after_a_fit_all_four_usual_grids_have_the_codes_that_it_left_but_for_the_chosen(drift: float) -> None:
    edit, net = BucketMargin(choice=TopNumber(100), price=0.0), network()
    assert len(edit.against) == 4
    original = matrices(net)
    edit.see_original(net)
    left = matrices(drifted(net, drift))
    apply(edit, net)
    changed = {name: torch.zeros_like(before, dtype=torch.bool) for name, before in original.items()}
    for name, after in matrices(net).items():
        grids = [attack.grid for attack in edit.against]
        scales = [grid.scales(original[name]) for grid in grids]
        smallest = torch.stack(scales).amin(0)
        held = torch.where(left[name].abs() > smallest, left[name].sign() * smallest, left[name])
        for grid, scale in zip(grids, scales, strict=True):
            assert torch.equal(grid.scales(after), scale)
            changed[name] |= grid.codes(after, scale) != grid.codes(held, scale)
        changed[name] &= ~pinned(original[name], grids)
    total = sum(int(mask.sum()) for mask in changed.values())
    assert 50 < total <= 100
    assert drift or total == 100


def test_several_grids_see_the_same_flips() -> None:
    net = network()
    before = matrices(net)
    apply(BucketMargin(SEVERAL, TopNumber(200), price=0.0), net)
    found = [flips(before, matrices(net), attack) for attack in SEVERAL[:2]]
    flipped = [torch.cat([f.flatten() for f in each.values()]) for each in found]
    assert torch.equal(flipped[0].sign(), flipped[1].sign())
    assert int((flipped[0] != 0).sum()) == 200


def test_the_rounded_network_moves_by_the_jumps_also_in_bfloat16() -> None:
    net = network().bfloat16()
    before = matrices(net)
    edit = BucketMargin([INT4], TopNumber(200), price=0.0)
    half = [[(x.bfloat16(), y) for x, y in batches(s)] for s in (1, 2)]
    edit(net, forget=half[0], retain=half[1], readout=ClassificationReadout())
    assert sum(int((f != 0).sum()) for f in flips(before, matrices(net), INT4).values()) == 200


def test_frozen_layers_and_those_that_are_not_rounded_stay() -> None:
    net = network()
    net[0].requires_grad_(False)
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    apply(BucketMargin([Quantize(bits=4, skip=["4"])], TopShare(0.1)), net)
    assert {n for n, p in net.named_parameters() if not torch.equal(p, before[n])} == {"2.weight"}


def test_the_original_may_come_from_a_file(tmp_path: Any) -> None:
    path = str(tmp_path / "original.safetensors")
    save_file({n: p.detach() for n, p in network().named_parameters()}, path)
    seen, read = BucketMargin([INT4], AtLeast(1e-4)), BucketMargin([INT4], AtLeast(1e-4), original=path)
    seen.see_original(network())
    one, other = drifted(network(), 0.01), drifted(network(), 0.01)
    apply(seen, one)
    apply(read, other)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    with pytest.raises(ValueError, match="Found none for `0.weight`, nor 0 others"):
        apply(BucketMargin([INT4], original=path), nn.Sequential(nn.Linear(32, 3)))


def test_shards_become_what_the_whole_becomes() -> None:
    def edited(rank: int, world: int) -> Any:
        torch.distributed.init_process_group("gloo", rank=rank, world_size=world)
        net = network()
        fully_shard(net, mesh=init_device_mesh("cpu", (world,)))
        apply(BucketMargin([INT4], TopNumber(100)), net)
        return {n: p.full_tensor().detach() for n, p in net.named_parameters()}

    expected = network()
    apply(BucketMargin([INT4], TopNumber(100)), expected)
    for weights in run_ranks(edited):
        for name, value in expected.named_parameters():
            assert_close(weights[name], value, rtol=0, atol=1e-6)


def test_what_cannot_be_edited_is_refused() -> None:
    adapted = get_peft_model(network(), LoraConfig(target_modules=["0", "2"], r=2))
    with pytest.raises(ValueError, match="Found that `base_model.model.0.base_layer.weight` is under an adapter"):
        apply(BucketMargin([INT4]), adapted)
    computed = network()
    weight_norm(computed[0])
    with pytest.raises(ValueError, match="is computed from others in each forward pass. Merge"):
        apply(BucketMargin([INT4]), computed)
    with pytest.raises(ValueError, match="Found that all of them are frozen"):
        apply(BucketMargin([INT4]), network().requires_grad_(False))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"against": []}, ValueError, "`against` should name at least one `Quantize`"),
        ({"against": [GradientAscent()]}, TypeError, r"`against\[0\]` should be a `Quantize`"),
        ({"margin": 0.5}, ValueError, "`margin` should be between 0 and 0.49"),
        ({"price": -1.0}, ValueError, "`price` should be finite and not negative"),
        ({"objective": NPO()}, ValueError, "`objective` should need no reference. Found `NPO"),
    ],
)
def test_bad_settings_are_refused(settings: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        BucketMargin(**settings)
