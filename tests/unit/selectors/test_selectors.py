"""What every selector keeps to; a new one joins `ALL_SELECTORS`."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from _ranks import run_ranks
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F
from torch.testing import assert_close

from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.readouts import ClassificationReadout
from lightning_unlearn.selectors import (
    AtLeast,
    CausalTrace,
    Choice,
    ConditionNumber,
    FisherRatio,
    GradientSaliency,
    LastLayers,
    LayerAblation,
    ModuleDrift,
    Random,
    Selector,
    TopLayers,
    TopNumber,
    TopShare,
    TopUpdate,
    selectable,
)

ALL_SELECTORS: list[Callable[[], Selector]] = [
    lambda: Random(seed=1),
    lambda: Random(seed=1, by="tensor"),
    lambda: Random(seed=1, by="matrix"),
    lambda: Random(seed=1, by="block"),
    lambda: LastLayers(),
    lambda: GradientSaliency(),
    lambda: GradientSaliency(by="tensor"),
    lambda: FisherRatio(over="retain"),
    lambda: FisherRatio(per="example", over="retain", by="tensor"),
    lambda: ConditionNumber(),
    lambda: ConditionNumber(choose="highest", shape_matched=True),
    lambda: TopUpdate(base=before()),
    lambda: TopUpdate(base=before(), by="tensor"),
    lambda: ModuleDrift(),
    lambda: LayerAblation(),
    lambda: CausalTrace(window=1),
]
ALL_CHOICES: list[Choice] = [TopShare(0.3), TopNumber(7), TopLayers(7), AtLeast(0.5)]

every_selector = pytest.mark.parametrize("build", ALL_SELECTORS, ids=lambda build: str(build()))
every_choice = pytest.mark.parametrize("choice", ALL_CHOICES, ids=lambda choice: type(choice).__name__)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Linear(8, 8)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.mlp(x)).tanh()


def network(seed: int = 3) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Sequential(Block(), Block()), nn.Linear(8, 3))
    net[0].bias.requires_grad_(False)
    return net


@cache
def folder() -> TemporaryDirectory[str]:
    return TemporaryDirectory()


def before() -> str:
    path = f"{folder().name}/before.safetensors"
    save_file({name: p.detach().clone() for name, p in network(seed=4).named_parameters()}, path)
    return path


def batches(seed: int) -> list[Any]:
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(4, 6, generator=generator), torch.randint(0, 3, (4,), generator=generator)) for _ in range(3)]


def scores(selector: Selector, net: nn.Module) -> dict[str, Tensor]:
    readout = ClassificationReadout()
    return selector.scores(net, forget=batches(1), retain=batches(2), readout=readout, engine=GradientEngine(net))


@every_selector
def test_each_score_is_one_number_or_one_for_each_element_of_a_parameter(build: Any) -> None:
    net = network()
    found = scores(build(), net)
    assert found
    assert found.keys() <= selectable(net).keys()
    assert len({score.dim() == 0 for score in found.values()}) == 1
    assert all(score.dim() == 0 or score.shape == selectable(net)[name].shape for name, score in found.items())
    assert all(score.isfinite().all() and not score.requires_grad for score in found.values())


@every_selector
def test_it_leaves_network_gradients_modes_and_random_generators_alone(build: Any) -> None:
    net = network().train()
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    before = {n: t.clone() for n, t in net.state_dict().items()}
    grads, modes, rng = [p.grad for p in net.parameters()], [m.training for m in net.modules()], torch.get_rng_state()
    scores(build(), net)
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())
    assert all(p.grad is g and torch.equal(g, torch.ones_like(g)) for p, g in zip(net.parameters(), grads, strict=True))
    assert [m.training for m in net.modules()] == modes
    assert torch.equal(torch.get_rng_state(), rng)


@every_selector
def test_the_same_network_and_data_give_the_same_scores(build: Any) -> None:
    one, other = scores(build(), network()), scores(build(), network())
    assert all(torch.equal(one[n], other[n]) for n in one)


# Random


def test_random_scores_of_a_parameter_do_not_depend_on_the_others_but_on_seed_and_name() -> None:
    whole, part = network(), nn.Sequential(nn.Linear(6, 8))
    assert torch.equal(Random(1).scores(whole)["0.weight"], Random(1).scores(part)["0.weight"])
    assert not torch.equal(Random(1).scores(whole)["0.weight"], Random(2).scores(whole)["0.weight"])
    twins = Random(1).scores(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))
    assert not torch.equal(twins["0.weight"], twins["1.weight"])


def test_random_scores_are_uniform() -> None:
    drawn = Random(0).scores(nn.Linear(200, 200))["weight"].flatten()
    counts = torch.histc(drawn, bins=10, min=0, max=1)
    assert_close(counts / len(drawn), torch.full((10,), 0.1), rtol=0, atol=0.01)


def test_random_draws_among_what_the_selector_beside_it_scores() -> None:
    net = network()
    assert Random(by="matrix").scores(net).keys() == ConditionNumber().scores(net).keys()
    drawn, layers = Random(by="block").scores(net), LastLayers().scores(net)
    assert drawn.keys() == layers.keys()
    for one in layers:  # of one block, one score; of others, another
        assert [bool(drawn[one] == drawn[other]) for other in layers] == [layers[one] == layers[o] for o in layers]


def test_of_an_adapter_random_draws_its_factors_alone() -> None:
    net = inject_adapter_in_model(LoraConfig(r=2, target_modules=["mlp"]), network())
    factors = {name for name in selectable(net) if "lora_" in name}
    assert len(factors) == 4
    assert Random(by="matrix").scores(net).keys() == ConditionNumber().scores(net).keys() >= factors
    assert Random(by="block").scores(net).keys() == LastLayers().scores(net).keys() >= factors


@pytest.mark.parametrize("by", ["tensor", "matrix", "block"])
def test_each_is_drawn_equally_often(by: Any) -> None:
    net = nn.Sequential(*(nn.Linear(2, 2, bias=False) for _ in range(4)))
    first = [max(found := Random(seed, by).scores(net), key=lambda name: float(found[name])) for seed in range(800)]
    assert [first.count(f"{i}.weight") for i in range(4)] == pytest.approx([200] * 4, abs=40)


def test_another_way_of_scoring_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r'`by` should be "element", "tensor", "matrix" or "block". Found `by = \'row\'`'
    ):
        Random(by="row")  # type: ignore[arg-type]


# Choices


@every_choice
def test_what_is_chosen_scores_no_lower_than_what_is_not(choice: Choice) -> None:
    found = Random(seed=4).scores(network())
    mask = choice(found)
    assert {n: (m.shape, m.dtype) for n, m in mask.items()} == {n: (s.shape, torch.bool) for n, s in found.items()}
    chosen = torch.cat([found[n][m] for n, m in mask.items()])
    left = torch.cat([found[n][~m] for n, m in mask.items()])
    assert len(chosen)
    assert len(left)
    assert chosen.min() >= left.max()


@pytest.mark.parametrize(
    ("choice", "number"),
    [(TopShare(0.1), 3), (TopShare(0.0), 0), (TopShare(1.0), 30), (TopNumber(4), 4), (TopNumber(99), 30)],
)
def test_so_many_are_chosen_also_of_equal_scores(choice: Choice, number: int) -> None:
    mask = choice({"a": torch.ones(5, 4), "b": torch.ones(10)})
    assert sum(int(m.sum()) for m in mask.values()) == number
    flat = torch.cat([m.flatten() for m in mask.values()])
    assert flat[:number].all()  # the first ones


def test_whole_tensors_are_chosen_by_their_one_score() -> None:
    mask = TopNumber(1)({"a": torch.tensor(0.2), "b": torch.tensor(0.9)})
    assert {name: bool(m) for name, m in mask.items()} == {"a": False, "b": True}


def test_whole_layers_are_chosen_by_the_score_that_their_tensors_share() -> None:
    found = {name: torch.tensor(score) for name, score in {"a": 1.0, "b": 5.0, "c": 3.0, "d": 5.0, "e": 3.0}.items()}
    chosen = lambda number: [name for name, m in TopLayers(number)(found).items() if m]  # noqa: E731
    assert (chosen(1), chosen(2), chosen(9)) == (["b", "d"], ["b", "c", "d", "e"], list(found))


def test_scores_that_cannot_be_ranked_together_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Found both: `a` has one number. Take the mean"):
        TopNumber(1)({"a": torch.tensor(0.2), "b": torch.ones(2)})
    with pytest.raises(ValueError, match=r"Scores should be numbers. Found 1 NaN among 2"):
        TopNumber(1)({"b": torch.tensor([1.0, float("nan")])})


@pytest.mark.parametrize(
    ("build", "found"), [(lambda: TopShare(1.5), "share = 1.5"), (lambda: TopNumber(-1), "number = -1")]
)
def test_settings_out_of_range_are_refused(build: Any, found: str) -> None:
    with pytest.raises(ValueError, match=f"Found `{found}`"):
        build()


def test_of_shards_the_same_is_chosen_as_of_the_whole() -> None:
    def choose(rank: int, world: int) -> dict[str, Tensor]:
        torch.distributed.init_process_group("gloo", rank=rank, world_size=world)
        net = fully_shard(nn.Linear(5, 3), mesh=init_device_mesh("cpu", (world,)))
        mask = TopShare(0.4)(Random(seed=1).scores(net))
        return {name: m.full_tensor() for name, m in mask.items()}

    expected = TopShare(0.4)(Random(seed=1).scores(nn.Linear(5, 3)))
    for there in run_ranks(choose):
        assert all(torch.equal(there[name], expected[name]) for name in expected)


def test_the_noun_fits_a_selector_that_takes_gradients() -> None:
    class Saliency(Selector):
        needs_forget = True

        def scores(self, network: nn.Module, *, forget=(), retain=(), readout=None, engine=None) -> dict[str, Tensor]:
            named = selectable(network)
            row, _ = engine.row(lambda b: F.cross_entropy(network(b[0]), b[1]), forget, list(named.values()))
            return {name: g.abs() for name, g in zip(named, row, strict=True) if g is not None}

    net = network().eval()
    found = scores(Saliency(), net)
    loss = sum(F.cross_entropy(net(x), y) for x, y in batches(1)) / 3
    assert_close(found["3.weight"], torch.autograd.grad(loss, net[3].weight)[0].abs())
