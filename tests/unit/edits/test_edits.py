"""What every edit keeps to; a new one joins `ALL_EDITS`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from _ranks import run_ranks
from safetensors.torch import save_file, save_model
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.testing import assert_close

from lightning_unlearn import LoRA, TinyCausalLM
from lightning_unlearn.attacks import Quantize
from lightning_unlearn.edits import (
    BucketMargin,
    Corrupt,
    Dampen,
    DampenUnlabelled,
    Edit,
    EditRecord,
    NegateLearnedVector,
    NegateTaskVector,
    NewtonInfluence,
    OneStepAscent,
    ProjectNeurons,
    RepSelect,
    ResetNeurons,
    SignAscent,
    WithinBudget,
    edited,
)
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.readouts import ClassificationReadout
from lightning_unlearn.selectors import TopShare
from lightning_unlearn.transforms import SpectralCollapse


def network(seed: int = 3) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))


def saved(seed: int, name: str = "weights.safetensors") -> str:
    save_file(dict(network(seed).named_parameters()), name)
    return name


ALL_EDITS: dict[str, Callable[[], Edit]] = {
    "base": lambda: NegateTaskVector(base=saved(4), scale=0.5),
    "finetuned": lambda: NegateTaskVector(finetuned=saved(4), scale=0.5),
    "both": lambda: NegateTaskVector(base=saved(4), finetuned=saved(5, "other.safetensors"), scale=0.5),
    "learned": lambda: NegateLearnedVector(steps=4, lr=0.01, rank=2),
    "corrupt": lambda: Corrupt(alpha=0.3, beta=0.1),
    "rep_select": lambda: RepSelect(scale=0.5, collapse=SpectralCollapse(q=2)),
    "budget": lambda: WithinBudget(RepSelect(collapse=SpectralCollapse(q=2)), kl=0.01),
    "bucket_margin": lambda: BucketMargin([Quantize(bits=4)], TopShare(0.2)),
    "dampen": lambda: Dampen(alpha=1.2),
    "dampen_unlabelled": lambda: DampenUnlabelled(alpha=1.05),
    "one_step": lambda: OneStepAscent(lr=0.5),
    "sign": lambda: SignAscent(lr=0.01),
    "reset": lambda: ResetNeurons(fraction=0.4),
    "project": lambda: ProjectNeurons("*", share=0.5),
    "newton": lambda: NewtonInfluence(decay=0.1),
}
NOTHING_AT_ALL: dict[str, Callable[[], Edit]] = {
    "base": lambda: NegateTaskVector(base=saved(4), scale=0.0),
    "finetuned": lambda: NegateTaskVector(finetuned=saved(4), scale=0.0),
    "learned": lambda: NegateLearnedVector(scale=0.0),
    "corrupt": lambda: Corrupt(alpha=0.0, beta=0.5),
    "rep_select": lambda: RepSelect(scale=0.0, collapse=SpectralCollapse(q=2)),
    "budget": lambda: WithinBudget(Corrupt(alpha=0.0), kl=0.01),
    "reset": lambda: ResetNeurons(fraction=0.0),
    "newton": lambda: NewtonInfluence(scale=0.0),
}
every_edit = pytest.mark.parametrize("build", ALL_EDITS.values(), ids=list(ALL_EDITS))


def batches(seed: int, dtype: torch.dtype = torch.float32) -> list[Any]:
    generator = torch.Generator().manual_seed(seed)
    draws = [(torch.randn(4, 6, generator=generator), torch.randint(0, 3, (4,), generator=generator)) for _ in range(3)]
    return [(inputs.to(dtype), labels) for inputs, labels in draws]


def apply(edit: Edit, net: nn.Module) -> EditRecord:
    return edit(net, **data_for(net))


def data_for(net: nn.Module) -> dict[str, Any]:
    dtype = next(net.parameters()).dtype
    data = {"forget": batches(1, dtype), "retain": batches(2, dtype)}
    return {**data, "readout": ClassificationReadout(), "engine": GradientEngine(net)}


def copied(net: nn.Module) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in net.named_parameters()}


# Shared properties


@every_edit
def test_it_changes_weights_in_place_and_nothing_else(build: Any) -> None:
    net = network().train()
    weights = list(net.parameters())
    for p in weights:
        p.grad = torch.ones_like(p)
    before, buffers = copied(net), {n: b.clone() for n, b in net.named_buffers()}
    kept = [(p.grad, p.requires_grad) for p in weights], [m.training for m in net.modules()], torch.get_rng_state()
    apply(build(), net)
    assert all(p is q for p, q in zip(net.parameters(), weights, strict=True))
    assert any(not torch.equal(p, before[n]) for n, p in net.named_parameters())
    assert all(torch.equal(b, buffers[n]) for n, b in net.named_buffers())
    assert all(p.grad is g and p.requires_grad is r for p, (g, r) in zip(weights, kept[0], strict=True))
    assert [m.training for m in net.modules()] == kept[1]
    assert torch.equal(torch.get_rng_state(), kept[2])


@every_edit
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_record_counts_what_really_changed(build: Any, dtype: torch.dtype) -> None:
    net = network().to(dtype)
    before = copied(net)
    edit = build()
    record = apply(edit, net)
    pairs = [(p.detach().double(), before[n].double()) for n, p in net.named_parameters()]
    assert record.edit == type(edit).__name__
    assert record.settings.items() >= edit.settings().items()
    assert record.tensors == sum(not torch.equal(a, b) for a, b in pairs)
    assert record.elements == sum(int((a != b).sum()) for a, b in pairs)
    change = sum(float((a - b).square().sum()) for a, b in pairs) ** 0.5
    fresh = network().to(dtype)
    written = dict(build().new_values(fresh, **data_for(fresh)))
    length = sum(float(before[n].double().square().sum()) for n in written) ** 0.5
    assert record.relative_change == pytest.approx(change / length, rel=1e-9)


@every_edit
def test_the_same_network_and_data_give_the_same_weights(build: Any) -> None:
    one, other = network(), network()
    apply(build(), one)
    apply(build(), other)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@every_edit
def test_inside_one_long_autocast_the_network_runs_as_edited_and_then_as_undone(build: Any) -> None:
    net, seen = network().eval(), []
    inputs = batches(1)[0][0]
    with torch.autocast("cpu", torch.bfloat16):
        net(inputs)  # casts weights
        with edited(build(), net, **data_for(net)):
            seen.append(net(inputs))
            torch.clear_autocast_cache()
            seen.append(net(inputs))
        seen.append(net(inputs))
    with torch.autocast("cpu", torch.bfloat16):
        undisturbed = net(inputs)
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], undisturbed)
    assert torch.equal(seen[2], undisturbed)


@every_edit
@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16], ids=str)
def test_it_is_the_same_edit_whatever_new_tensors_are_by_default(build: Any, default: torch.dtype) -> None:
    one, other = network(), network()
    apply(build(), one)
    edit, data = build(), data_for(other)
    torch.set_default_dtype(default)
    try:
        edit(other, **data)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("build", NOTHING_AT_ALL.values(), ids=list(NOTHING_AT_ALL))
def test_at_scale_zero_nothing_changes_to_the_bit(build: Any) -> None:
    net = network()
    before = copied(net)
    record = apply(build(), net)
    assert all(torch.equal(p, before[n]) for n, p in net.named_parameters())
    assert (record.tensors, record.elements, record.relative_change) == (0, 0, 0.0)


@every_edit
def test_undone_it_leaves_every_bit(build: Any) -> None:
    net = network()
    before = copied(net)
    with edited(build(), net, **data_for(net)) as record:
        assert any(not torch.equal(p, before[n]) for n, p in net.named_parameters())
        assert record.elements
    assert all(torch.equal(p, before[n]) for n, p in net.named_parameters())


def test_undone_it_leaves_every_bit_also_if_it_fails_half_way() -> None:
    net = network()
    before = copied(net)
    halfway = Given({"0.bias": torch.ones(8), "3.bias": torch.full((3,), float("nan"))})
    with pytest.raises(FloatingPointError), edited(halfway, net):
        pass
    assert all(torch.equal(p, before[n]) for n, p in net.named_parameters())


def test_it_stays_if_it_is_not_to_be_undone() -> None:
    net = network()
    with edited(Given({"0.bias": torch.ones(8)}), net, restore=False):
        pass
    assert torch.equal(net[0].bias, torch.ones(8))


@pytest.mark.parametrize(
    "edit",
    [kind() for kind in (NegateLearnedVector, Dampen, DampenUnlabelled, OneStepAscent, SignAscent, ProjectNeurons)],
    ids=lambda edit: type(edit).__name__,
)
def test_without_data_it_says_what_it_needs(edit: Edit) -> None:
    message = f"`{type(edit).__name__}` should get `forget`, `retain` and a `readout`. Found no `retain`, no `readout`."
    with pytest.raises(ValueError, match=message):
        edit(network(), forget=batches(1))


# The base


class Given(Edit):
    """New values as told."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        self.values = values

    def new_values(self, network: nn.Module, **data: Any) -> Any:
        yield from self.values.items()


def test_an_edit_that_changes_nothing_says_so() -> None:
    assert Given({})(nn.Linear(1, 1)) == EditRecord("Given", {}, 0, 0, 0.0)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (
            {"other": torch.ones(1)},
            ValueError,
            "should change parameters of the network. Found none of the name `other`",
        ),
        ({"bias": torch.ones(3)}, ValueError, r"a value of its shape, \(2,\) of torch.float32. Found \(3,\)"),
        (
            {"bias": torch.tensor([1.0, float("nan")])},
            FloatingPointError,
            "finite values. Found NaN or infinity for `bias`",
        ),
    ],
)
def test_values_that_do_not_fit_are_refused(values: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        Given(values)(nn.Linear(1, 2))


# NegateTaskVector


@pytest.mark.parametrize("scale", [0.3, 1.0, 2.0])
def test_negation_moves_along_the_line_through_both(scale: float) -> None:
    towards, away = network(), network()
    NegateTaskVector(base=saved(4), scale=scale)(towards)
    NegateTaskVector(finetuned=saved(4), scale=scale)(away)
    rows = zip(network().parameters(), network(4).parameters(), towards.parameters(), away.parameters(), strict=True)
    for start, other, forward, backward in rows:
        assert_close(forward, torch.lerp(start, other, scale), rtol=1e-6, atol=1e-6)
        assert_close(backward, torch.lerp(start, other, -scale), rtol=1e-6, atol=1e-6)


def test_scale_one_arrives_at_the_base() -> None:
    net = network()
    NegateTaskVector(base=saved(4))(net)
    for p, q in zip(net.parameters(), network(4).parameters(), strict=True):
        assert_close(p, q, rtol=0, atol=1e-7)


def test_what_is_added_is_taken_away_again() -> None:
    """Both weights given: the vector does not depend on the network it is subtracted from."""
    net = network()
    NegateTaskVector(base=saved(4, "a.safetensors"), finetuned=saved(5, "b.safetensors"), scale=0.7)(net)
    NegateTaskVector(base="b.safetensors", finetuned="a.safetensors", scale=0.7)(net)
    for p, q in zip(net.parameters(), network().parameters(), strict=True):
        assert_close(p, q, rtol=0, atol=1e-6)


def test_a_folder_a_lightning_checkpoint_and_a_file_are_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    half, rest = list(network(4).named_parameters())[:2], list(network(4).named_parameters())[2:]
    parts = {"model-00001-of-00002.safetensors": dict(half), "model-00002-of-00002.safetensors": dict(rest)}
    for file, weights in parts.items():
        save_file(weights, folder / file)
    index = {"weight_map": {name: file for file, weights in parts.items() for name in weights}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    state = {f"net.{n}": p.detach() for n, p in network(4).named_parameters()}
    torch.save({"state_dict": {**state, "other.weight": torch.ones(1)}}, tmp_path / "last.ckpt")
    results = []
    for path in (saved(4), str(folder), str(tmp_path / "last.ckpt")):
        NegateTaskVector(base=path, scale=0.5)(net := network())
        results.append(list(net.parameters()))
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(*results, strict=True))


def test_parameters_that_the_file_does_not_have_stay() -> None:
    save_file({"0.weight": network(4)[0].weight.detach()}, "part.safetensors")
    net = network()
    record = NegateTaskVector(base="part.safetensors", scale=0.5)(net)
    assert record.tensors == 1
    assert torch.equal(net[3].weight, network()[3].weight)


def test_weights_that_are_not_the_networks_are_refused(tmp_path: Path) -> None:
    save_file({"nobodys": torch.ones(1)}, "names.safetensors")
    with pytest.raises(ValueError, match="none of whose names it has: `nobodys`, not `0.weight`. Is there an adapter"):
        NegateTaskVector(base="names.safetensors")(network())
    save_file({"0.weight": torch.ones(2, 2)}, "shapes.safetensors")
    with pytest.raises(ValueError, match=r"Found `0.weight` of \(2, 2\), not \(8, 6\). Is it of another model"):
        NegateTaskVector(base="shapes.safetensors")(network())
    with pytest.raises(FileNotFoundError, match="Found nothing at 'nowhere'"):
        NegateTaskVector(base="nowhere")(network())
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="A folder of weights should hold `model.safetensors`"):
        NegateTaskVector(base=str(tmp_path / "empty"))(network())
    with pytest.raises(ValueError, match="Found neither `base` nor `finetuned`"):
        NegateTaskVector()


def test_a_network_with_an_adapter_is_refused_although_some_names_are_known() -> None:
    """Embeddings and norms have their names; layers below the adapter do not, and would be left out."""
    tiny = {"hidden_size": 32, "num_hidden_layers": 1}
    save_model(TinyCausalLM(seed=1, **tiny), "tiny.safetensors")
    net = LoRA(r=2).wrap(TinyCausalLM(**tiny))
    before = [p.detach().clone() for p in net.parameters()]
    with pytest.raises(
        ValueError, match=r"`NegateTaskVector` should get a network without an adapter.*`.*\.q_proj`.*Merge"
    ):
        NegateTaskVector(base="tiny.safetensors")(net)
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True))


# Within rounding: sums over shards are taken in another order.
SHARDED = ["learned", "dampen", "dampen_unlabelled", "one_step", "sign", "reset", "project", "newton"]


@pytest.mark.slow
def test_shards_become_what_the_whole_becomes_by_every_edit_that_looks_at_data() -> None:
    def edit(rank: int, world: int) -> Any:
        torch.distributed.init_process_group("gloo", rank=rank, world_size=world)
        found = {}
        for name in SHARDED:
            net = fully_shard(network(), mesh=init_device_mesh("cpu", (world,)))
            record = apply(ALL_EDITS[name](), net)
            found[name] = record, {n: p.full_tensor().detach() for n, p in net.named_parameters()}
        return found

    for found in run_ranks(edit):
        for name in SHARDED:
            expected = apply(ALL_EDITS[name](), net := network())
            record, there = found[name]
            assert record.tensors == expected.tensors, name
            for n, p in net.named_parameters():
                assert_close(there[n], p.detach(), rtol=1e-4, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")


def test_shards_become_what_the_whole_becomes() -> None:
    path = str(Path(saved(4)).absolute())

    def edit(rank: int, world: int) -> Any:
        torch.distributed.init_process_group("gloo", rank=rank, world_size=world)
        net = fully_shard(network(), mesh=init_device_mesh("cpu", (world,)))
        record = NegateTaskVector(base=path, scale=0.5)(net)
        return record, {n: p.full_tensor() for n, p in net.named_parameters() if isinstance(p, DTensor)}

    expected = NegateTaskVector(base=path, scale=0.5)(net := network())
    for record, there in run_ranks(edit):
        assert all(torch.equal(there[n], p) for n, p in net.named_parameters())
        assert (record.tensors, record.elements) == (expected.tensors, expected.elements)
        assert record.relative_change == pytest.approx(expected.relative_change, rel=1e-12)
