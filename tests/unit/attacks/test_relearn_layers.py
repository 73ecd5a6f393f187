"""An attacker's adapter reaches every kind of layer: its gradients are those of the changed weight, by hand, in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from _kinds_of_layers import COMPUTED, LAYERS, Inputs, assert_unchanged, everything, last, old
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.testing import assert_close
from transformers.pytorch_utils import Conv1D

from lightning_unlearn.attacks import Relearn
from lightning_unlearn.attacks._adapter import attached_adapter


class Bare(nn.Module):
    """A linear layer that nothing tells to be one, and a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix, self.token = nn.Parameter(torch.randn(4, 5)), nn.Parameter(torch.randn(1, 1, 4))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.matrix.T + self.token[0]


class Experts(nn.Module):
    """Three experts, ``[experts, out, in]`` or, transposed, ``[experts, in, out]``."""

    def __init__(self, is_transposed: bool) -> None:
        super().__init__()
        self.num_experts, self.is_transposed = 3, is_transposed
        self.gate_up_proj = nn.Parameter(torch.randn(*((3, 5, 8) if is_transposed else (3, 8, 5))))
        self.down_proj = nn.Parameter(torch.randn(*((3, 4, 5) if is_transposed else (3, 5, 4))))
        self.gate_up_proj_bias = nn.Parameter(torch.randn(3, 8))

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.gate_up_proj, self.down_proj
        if not self.is_transposed:
            first, second = first.mT, second.mT
        gate, up = (torch.einsum("bi,eio->ebo", x, first) + self.gate_up_proj_bias[:, None]).chunk(2, -1)
        return (gate.sigmoid() * up) @ second


class FlattenedExperts(nn.Module):
    """As in DBRX: experts follow each other in the rows, and the last matrix is stored with its inputs first."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden_size, self.moe_num_experts = 5, 3
        self.w1, self.w2 = nn.Parameter(torch.randn(12, 5)), nn.Parameter(torch.randn(12, 5))

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.w1.view(3, 4, 5).mT).tanh() @ self.w2.view(3, 4, 5)


class Router(nn.Linear):
    """As some routers of transformers: a linear layer that gives more than its product."""

    def forward(self, x: Tensor) -> Any:
        logits = super().forward(x)
        return logits.softmax(-1), logits.argmax(-1)


class Grouped(nn.Linear):
    """As in DeepSeek V4: each part of the outputs has inputs of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bgi,goi->bgo", x, self.weight.view(x.shape[1], -1, self.in_features))


# As in `LAYERS`; of several matrices a function instead of a number, from a name and a weight to ``[stacked, out, in]``.
OTHERS: dict[str, tuple[Callable[[], nn.Module], Inputs, Any]] = {
    "conv1d of transformers": (lambda: Conv1D(4, 5), ((3, 5),), lambda _, w: w.T[None]),
    "depthwise": (lambda: nn.Conv2d(4, 8, 3, groups=4, padding=1, padding_mode="circular"), ((2, 4, 5, 5),), 0),
    "dilated": (lambda: nn.Conv1d(3, 4, 2, dilation=2, stride=2), ((2, 3, 9),), 0),
    "depthwise transposed": (lambda: nn.ConvTranspose1d(4, 4, 3, groups=4), ((2, 4, 7),), 4),
    "bare": (Bare, ((3, 5),), 0),
    "experts": (lambda: Experts(is_transposed=False), ((6, 5),), lambda _, w: w),
    "transposed experts": (lambda: Experts(is_transposed=True), ((6, 5),), lambda _, w: w.mT),
    "flattened experts": (
        FlattenedExperts,
        ((6, 5),),
        lambda name, w: w.view(3, 4, 5) if name == "w1" else w.view(3, 4, 5).mT,
    ),
    "router": (lambda: Router(5, 4), ((3, 5),), 0),
    "grouped linear": (lambda: Grouped(5, 4, bias=False), ((3, 2, 5),), 0),
}


def matrices_of(weight: Tensor, name: str, groups: Any) -> list[Tensor]:
    """``[out, in, ...]`` each, in the memory of ``weight``, written as each kind of layer documents its weights."""
    if callable(groups):
        return list(groups(name, weight))
    return [part.transpose(0, 1) for part in weight.chunk(groups)] if groups else [weight]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@contextmanager
def adapted(layer: nn.Module) -> Iterator[list[Any]]:
    """An adapter whose second factors are not zero."""
    with attached_adapter(layer, rank=2, seed=0) as changes:
        for change in changes:
            nn.init.normal_(change.params[1])
        yield changes


@pytest.mark.parametrize(("build", "shapes", "groups"), [*LAYERS.values(), *OTHERS.values()], ids=[*LAYERS, *OTHERS])
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
def test_the_gradient_of_factors_is_that_of_the_weight_times_the_other_factor(
    build: Callable[[], nn.Module], shapes: Inputs, groups: Any
) -> None:
    layer = build().double().eval()
    inputs = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    before, state = last(layer(*inputs)).detach(), everything(layer)
    changed = {n: p.detach().clone() for n, p in layer.named_parameters()}
    with adapted(layer) as changes:
        assert list(layer.state_dict()) == state["keys"]
        outputs = last(layer(*inputs))
        outputs.square().sum().backward()
        assert all(p.grad is None for p in layer.parameters())
        for change in changes:
            name = change.place.matrix.name
            products = torch.matmul(*(p.detach().double() for p in reversed(change.params)))
            parts = matrices_of(changed[name], name, groups)
            for part, product in zip(parts, products.view(len(parts), *products.shape[-2:]), strict=True):
                part.add_(product.view(part.shape))
    vectors = {n for n, p in changed.items() if "bias" in n or n == "token"}
    assert {change.place.matrix.name for change in changes} == {*changed} - vectors
    leaves = {n: w.requires_grad_() for n, w in changed.items()}
    by_hand = last(torch.func.functional_call(layer, leaves, tuple(inputs)))
    assert_close(outputs, by_hand, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(outputs, before)
    by_hand.square().sum().backward()
    for change in changes:
        a, b = change.params
        name = change.place.matrix.name
        gradient = torch.stack([part.flatten(1) for part in matrices_of(leaves[name].grad, name, groups)])
        assert_close(a.grad.double().view(len(gradient), *a.shape[-2:]), b.double().mT @ gradient, rtol=1e-4, atol=1e-4)
        assert_close(b.grad.double().view(len(gradient), *b.shape[-2:]), gradient @ a.double().mT, rtol=1e-4, atol=1e-4)
    assert_unchanged(layer, state)
    assert torch.equal(last(layer(*inputs)), before)
    assert Relearn().share_reached(layer) == 1


@pytest.mark.parametrize("compute", COMPUTED.values(), ids=COMPUTED)
@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda: nn.Linear(6, 6), (3, 6)),
        (lambda: nn.Conv2d(4, 4, 2), (2, 4, 5, 5)),
        (lambda: nn.Bilinear(4, 4, 4), None),
    ],
    ids=["linear", "convolution", "bilinear"],
)
def test_a_weight_that_is_computed_is_adapted_after_it_was(
    compute: Callable[[Any], nn.Module], build: Callable[[], Any], shape: tuple[int, ...] | None
) -> None:
    layer = compute(build()).eval()
    inputs = [torch.randn(shape)] if shape else [torch.randn(5, 4), torch.randn(5, 4)]
    before = layer(*inputs).detach()
    plain: Any = build()
    with torch.no_grad():
        plain.weight.copy_(layer.weight)
        plain.bias.copy_(layer.bias)
    state = everything(layer)
    with adapted(layer) as [change]:
        a, b = change.params
        plain.weight.data += (b @ a).detach().view(plain.weight.shape)
        layer(*inputs).sum().backward()
        assert_close(layer(*inputs), plain(*inputs), rtol=1e-4, atol=1e-4)
        assert bool(a.grad.any())
        assert bool(b.grad.any())
        assert list(layer.state_dict()) == state["keys"]
    if isinstance(layer, nn.Linear):  # the layer's own hook sets the attribute anew in each forward pass
        state["objects"] = everything(layer)["objects"]
    assert_unchanged(layer, state)
    assert torch.equal(layer(*inputs), before)
    assert Relearn().share_reached(layer) == 1


@pytest.mark.parametrize("norm", [parametrizations.weight_norm, old(nn.utils.weight_norm)], ids=["new", "old"])
def test_a_recurrent_layer_with_a_normed_weight_is_adapted_whole(norm: Any) -> None:
    layer, x = nn.LSTM(3, 4), torch.randn(5, 2, 3)
    norm(layer, "weight_hh_l0")
    before = layer(x)[0].detach()
    with adapted(layer) as changes:
        assert {c.place.matrix.name for c in changes} == {"weight_ih_l0", "weight_hh_l0"}
        layer(x)[0].sum().backward()
        assert all(bool(p.grad.any()) for c in changes for p in c.params)
    assert torch.equal(layer(x)[0], before)


def test_attention_reads_a_pruned_output_projection_without_a_forward_pass_of_it() -> None:
    layer, x = nn.MultiheadAttention(4, 2), torch.randn(5, 2, 4)
    prune.l1_unstructured(layer.out_proj, "weight", amount=3)
    state = everything(layer)
    with adapted(layer) as changes:
        layer(x, x, x)[0].sum().backward()
        assert all(bool(p.grad.any()) for c in changes for p in c.params)
    assert_unchanged(layer, state)


@pytest.mark.parametrize("training", [False, True])
def test_a_block_of_torch_is_adapted_also_where_it_would_take_its_fast_path(training: bool) -> None:
    layer, x = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).train(training), torch.randn(2, 5, 8)
    with torch.no_grad():
        before = layer(x)
        with adapted(layer) as changes:
            assert len(changes) == 4
            changed = [change.shift().detach() for change in changes]
            outputs = layer(x)
        weights = [layer.self_attn.in_proj_weight, layer.self_attn.out_proj.weight, layer.linear1.weight]
        for weight, change in zip([*weights, layer.linear2.weight], changed, strict=True):
            weight.add_(change)
        assert_close(layer(x), outputs, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(outputs, before)


def test_two_layers_with_one_weight_are_both_adapted() -> None:
    network = nn.Sequential(nn.Conv1d(3, 3, 1), nn.Conv1d(3, 3, 1))
    network[1].weight = network[0].weight
    x = torch.randn(2, 3, 5)
    before = network(x).detach()
    with adapted(network) as changes:
        assert len(changes) == 2
        assert not torch.allclose(network(x), before)
        assert Relearn().share_reached(network) == 1
    assert torch.equal(network(x), before)


@pytest.mark.parametrize(
    "build", [LAYERS["gru"][0], OTHERS["experts"][0], OTHERS["depthwise"][0]], ids=["gru", "experts", "conv"]
)
def test_after_an_exception_in_a_pass_nothing_has_changed(build: Any) -> None:
    layer = build()
    state = everything(layer)
    with pytest.raises(RuntimeError, match="."), adapted(layer):
        layer(torch.randn(1, 2))
    assert_unchanged(layer, state)


def test_under_autocast_the_sum_is_taken_in_full() -> None:
    layer, x = Experts(is_transposed=False), torch.randn(6, 5)
    with adapted(layer) as changes:
        a, b = next(c for c in changes if c.place.matrix.name == "down_proj").params
        in_full = layer.state_dict()["down_proj"] + b @ a
        with torch.autocast("cpu", torch.bfloat16):
            assert_close(layer.down_proj, in_full)
            outputs = layer(x)
    assert outputs.dtype == torch.bfloat16


def test_a_compiled_network_computes_with_the_sum() -> None:
    network, x = nn.Sequential(nn.Conv1d(3, 4, 1), nn.Flatten(), FlattenedExperts()), torch.randn(2, 3, 1)
    network[1] = nn.Sequential(nn.Flatten(), nn.Linear(4, 5))
    network.compile(backend="eager")
    with torch.no_grad():
        before = network(x)
        with adapted(network):
            assert_close(network(x), network.forward(x))
            assert not torch.allclose(network(x), before)
        assert torch.equal(network(x), before)


def test_half_precision_is_said_to_swallow_small_steps_of_what_is_added_to_a_weight() -> None:
    layer, x = Bare().bfloat16(), torch.randn(8, 5, dtype=torch.bfloat16)
    attack = Relearn(steps=1, lr=1e-6)
    with (
        pytest.warns(UserWarning, match="The step of `Relearn` should reach the weights"),
        attack(layer, batches=[x], loss=lambda x: layer(x).float().sum()) as points,
    ):
        list(points)
    assert attack.realised_share < 0.5
    attack = Relearn(steps=1, lr=1.0)
    with attack(layer, batches=[x], loss=lambda x: layer(x).float().sum()) as points:
        list(points)
    assert attack.realised_share == pytest.approx(1, abs=0.05)


def in_peft(network: nn.Module, **options: Any) -> Any:
    return get_peft_model(network, LoraConfig(**{"r": 2, "init_lora_weights": False, **options})).base_model.model


BESIDE: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "lora on linear": (lambda: in_peft(nn.Sequential(nn.Linear(5, 4)), target_modules=["0"]), (3, 5)),
    "lora on convolutions": (lambda: in_peft(nn.Sequential(nn.Conv2d(3, 4, 2)), target_modules=["0"]), (2, 3, 5, 5)),
    "dora": (lambda: in_peft(nn.Sequential(nn.Conv1d(3, 4, 2)), target_modules=["0"], use_dora=True), (2, 3, 7)),
    "lora on one of two matrices": (
        lambda: in_peft(nn.Sequential(Experts(False)), target_modules=[], target_parameters=["0.down_proj"]),
        (6, 5),
    ),
    "lora on both": (
        lambda: in_peft(
            nn.Sequential(Experts(True)), target_modules=[], target_parameters=["0.down_proj", "0.gate_up_proj"]
        ),
        (6, 5),
    ),
    "pruned conv1d of transformers": (
        lambda: nn.Sequential(prune.l1_unstructured(Conv1D(4, 5), "weight", amount=7)),
        (3, 5),
    ),
    "one layer twice": (lambda: nn.Sequential(*[LAYERS["linear"][0](), nn.Linear(4, 5)] * 2), (3, 5)),
}


@pytest.mark.parametrize(("build", "shape"), BESIDE.values(), ids=BESIDE)
def test_beside_adapters_and_masks_it_begins_at_the_network_and_moves_all_of_it(
    build: Callable[[], Any], shape: tuple[int, ...]
) -> None:
    network, x = build().eval(), torch.randn(shape)
    before, state = network(x).detach(), everything(network)
    if build is BESIDE["pruned conv1d of transformers"][0]:
        state["objects"] = {
            k: v for k, v in state["objects"].items() if k != "0.weight"
        }  # set anew by torch in each pass
    with attached_adapter(network, rank=2, seed=0):
        assert_close(network(x), before, rtol=1e-6, atol=1e-6)
    with adapted(network) as changes:
        network(x).square().sum().backward()
        own = [c for c in changes if c.place.matrix.factor_of is None]
        assert all(p.grad is not None and bool(p.grad.any()) for c in own for p in c.params)
        assert not torch.allclose(network(x), before)
    assert torch.equal(network(x), before)
    after = everything(network)
    assert after["keys"] == state["keys"]
    assert after["classes"] == state["classes"]
    assert all(torch.equal(value, state["bits"][name]) for name, value in after["bits"].items())
    assert {name: after["objects"][name] for name in state["objects"]} == state["objects"]
    assert Relearn().share_reached(network) == 1


def test_what_nobody_reaches_is_not_in_the_share() -> None:
    network = in_peft(nn.ModuleDict({"a": nn.MultiheadAttention(4, 2), "b": nn.Linear(4, 4)}), target_modules=["a"])
    assert Relearn().share_reached(network) == 16 / (16 + 48 + 16)
    flattened: Any = nn.Conv1d(3, 4, 1)
    del flattened.weight
    flattened.weight = torch.zeros(12)
    assert Relearn().share_reached(nn.Sequential(flattened, nn.Linear(4, 4))) == 0
    assert Relearn().share_reached(nn.Sequential(nn.EmbeddingBag(9, 4), nn.Linear(4, 4))) == 1


class Reader(nn.Module):
    """Uses the weight of a layer that it never calls, which nothing tells before."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.called, self.read = nn.Linear(5, 4), nn.Linear(4, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.called(x) @ self.read.weight.T


def relearned(network: nn.Module) -> None:
    with Relearn(steps=2)(network, batches=[torch.randn(3, 5)], loss=lambda x: network(x).sum()) as points:
        assert list(points) == [0, 1, 2]


def test_it_is_said_if_most_of_the_weights_are_read_past_their_layers() -> None:
    with pytest.warns(UserWarning, match='layers with most of them were never called.*`Relearn\\(mode="full"\\)`'):
        relearned(Reader(width=9))
    relearned(Reader(width=4))  # less than half of them: no warning, which would be an error
