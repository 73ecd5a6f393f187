"""Quantisation reaches every kind of layer: its output is that of the layer with its weights rounded by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from _kinds_of_layers import COMPUTED, LAYERS, Inputs, assert_unchanged, everything, last, old
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.testing import assert_close
from transformers import MixtralConfig, MixtralForCausalLM

from lightning_unlearn.attacks import Quantize
from lightning_unlearn.functional.quantization import round_to_nearest

rounded = partial(round_to_nearest, bits=3)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def in_groups(weight: Tensor, groups: int) -> Tensor:
    """``[groups * in, out, ...]``, rounded for each group and each of its outputs."""
    return torch.cat([rounded(part.transpose(0, 1)).transpose(0, 1) for part in weight.chunk(groups)])


every_layer = pytest.mark.parametrize(("build", "shapes", "groups"), LAYERS.values(), ids=LAYERS)


@every_layer
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
def test_the_weights_of_every_layer_are_rounded_and_its_biases_are_not(
    build: Callable[[], nn.Module], shapes: Inputs, groups: int
) -> None:
    by_hand = partial(in_groups, groups=groups) if groups else rounded
    layer = build().eval()
    inputs = [torch.randn(shape) for shape in shapes]
    expected = {n: p if "bias" in n else by_hand(p.detach()) for n, p in layer.named_parameters()}
    with torch.no_grad():
        before = last(layer(*inputs))
        by_the_oracle = last(torch.func.functional_call(layer, expected, tuple(inputs)))
        with Quantize(bits=3)(layer):
            assert_close(last(layer(*inputs)), by_the_oracle)
            assert all(torch.equal(p, expected[n]) for n, p in layer.named_parameters())
        assert not torch.allclose(by_the_oracle, before)
        assert torch.equal(last(layer(*inputs)), before)
    assert Quantize().share_reached(layer) == 1


every_way = pytest.mark.parametrize("compute", COMPUTED.values(), ids=COMPUTED)


@every_way
@pytest.mark.parametrize(
    ("build", "shape", "channels"),
    [
        (lambda: nn.Linear(6, 6), (3, 6), None),
        (lambda: nn.Conv2d(4, 4, 2), (2, 4, 5, 5), None),
        (lambda: nn.ConvTranspose1d(4, 4, 1), (2, 4, 7), "transposed"),
    ],
    ids=["linear", "convolution", "transposed convolution"],
)
def test_a_weight_that_is_computed_is_rounded_after_it_was(
    compute: Callable[[Any], nn.Module],
    build: Callable[[], Any],
    shape: tuple[int, ...],
    channels: str | None,
) -> None:
    layer, x = compute(build()).eval(), torch.randn(shape)
    with torch.no_grad():
        before = layer(x)
        state = everything(layer)
        plain: Any = build()
        weight: Tensor = layer.weight.detach()
        plain.weight.copy_(in_groups(weight, 1) if channels else rounded(weight))
        plain.bias.copy_(layer.bias)
        with Quantize(bits=3)(layer):
            assert_close(layer(x), plain(x), rtol=1e-5, atol=1e-6)
            assert_close(layer.weight, plain.weight, rtol=1e-5, atol=1e-6)
            assert list(layer.state_dict()) == state["keys"]
        assert not torch.allclose(plain(x), before)
        assert_unchanged(layer, state)
        assert torch.equal(layer(x), before)
    assert Quantize().share_reached(layer) == 1


@every_way
@pytest.mark.parametrize("training", [False, True])
def test_after_an_exception_nothing_of_a_computed_weight_has_changed(
    compute: Callable[[Any], nn.Module], training: bool
) -> None:
    network = nn.Sequential(compute(nn.Linear(6, 6)), nn.Linear(6, 2)).train(training)
    before = everything(network)
    with pytest.raises(RuntimeError, match="in the middle"), Quantize(bits=3)(network):
        raise RuntimeError("in the middle")
    assert_unchanged(network, before)


@every_way
def test_when_rounding_fails_nothing_of_a_computed_weight_has_changed(
    compute: Callable[[Any], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    network, attack = nn.Sequential(nn.Linear(6, 6), compute(nn.Linear(6, 6))).eval(), Quantize(bits=3)

    def fail(weight: Tensor) -> Tensor:
        if "0.weight" not in calls:
            calls.append("0.weight")
            return weight / 2
        raise MemoryError("of the device")

    calls: list[str] = []
    before = everything(network)
    monkeypatch.setattr(attack, "rounded", fail)
    with pytest.raises(MemoryError, match="of the device"), attack(network):
        network(torch.randn(2, 6))
    assert_unchanged(network, before)


@pytest.mark.parametrize("compute", [parametrizations.weight_norm, COMPUTED["pruned"]], ids=["weight norm", "pruned"])
def test_gradients_go_through_rounding_to_what_the_weight_is_computed_from(compute: Any) -> None:
    layer, x = compute(nn.Linear(6, 6)), torch.randn(3, 6)
    with Quantize(bits=3)(layer):
        layer(x).sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for n, p in layer.named_parameters() if n != "bias")


def test_one_parameter_under_two_masks_is_rounded_under_each() -> None:
    network, x = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6)), torch.randn(3, 6)
    network[1].weight = network[0].weight
    for layer in network:
        prune.random_unstructured(layer, "weight", amount=9)
    with torch.no_grad(), Quantize(bits=3)(network):
        for layer in network:
            by_hand = nn.functional.linear(x, rounded(layer.weight_orig * layer.weight_mask), layer.bias)
            assert_close(layer(x), by_hand)


def test_attention_reads_a_pruned_output_projection_without_a_forward_pass_of_it() -> None:
    layer, plain, x = nn.MultiheadAttention(4, 2), nn.MultiheadAttention(4, 2), torch.randn(5, 2, 4)
    plain.load_state_dict(layer.state_dict())
    for attention in (layer, plain):
        prune.l1_unstructured(attention.out_proj, "weight", amount=3)
    prune.remove(plain.out_proj, "weight")
    with torch.no_grad(), Quantize(bits=3)(layer), Quantize(bits=3)(plain):
        assert_close(layer(x, x, x)[0], plain(x, x, x)[0])


@pytest.mark.parametrize("norm", [parametrizations.weight_norm, old(nn.utils.weight_norm)], ids=["new", "old"])
def test_a_recurrent_layer_with_a_normed_weight_is_rounded_whole(norm: Any) -> None:
    layer, plain, x = nn.LSTM(3, 4), nn.LSTM(3, 4), torch.randn(5, 2, 3)
    plain.load_state_dict(layer.state_dict())
    norm(layer, "weight_hh_l0")
    with torch.no_grad():
        before = layer(x)[0]
        with Quantize(bits=3)(layer), Quantize(bits=3)(plain):
            assert_close(layer(x)[0], plain(x)[0])
        assert torch.equal(layer(x)[0], before)


def test_adapters_are_merged_into_a_weight_that_is_computed() -> None:
    network = nn.Sequential(nn.Linear(6, 6))
    prune.l1_unstructured(network[0], "weight", amount=9)
    adapted: Any = get_peft_model(network, LoraConfig(r=2, target_modules=["0"], init_lora_weights=False))
    x, layer = torch.randn(3, 6), adapted.base_model.model[0]
    with torch.no_grad():
        before = adapted(x)
        whole = layer.base_layer.weight + layer.get_delta_weight("default")
        with Quantize(bits=3)(adapted):
            assert_close(adapted(x), nn.functional.linear(x, rounded(whole), layer.base_layer.bias))
        assert torch.equal(adapted(x), before)


def test_the_adapter_of_attention_is_refused_unless_the_base_alone_is_rounded() -> None:
    network = nn.ModuleDict({"a": nn.MultiheadAttention(4, 2)})
    adapted: Any = get_peft_model(network, LoraConfig(r=2, target_modules=["a"], init_lora_weights=False))
    layer, x = adapted.base_model.model["a"], torch.randn(5, 2, 4)
    with pytest.raises(ValueError, match=r"should only add to its weight.*`merge_adapters=False`"):
        Quantize(bits=3)(adapted).__enter__()
    before = {n: p.detach().clone() for n, p in adapted.named_parameters()}
    with torch.no_grad(), Quantize(bits=3, merge_adapters=False)(adapted):
        layer(x, x, x)
    assert all(torch.equal(p, before[n]) for n, p in adapted.named_parameters())


def mixtral() -> Any:
    sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_local_experts": 4}
    return MixtralForCausalLM(MixtralConfig(**sizes, **heads))


def test_each_output_of_each_expert_has_its_own_scale() -> None:
    network = mixtral()
    fused = {n: p.detach().clone() for n, p in network.named_parameters() if p.dim() == 3}
    assert fused
    with Quantize(bits=3)(network):
        for name, weight in fused.items():
            expected = torch.stack([rounded(expert) for expert in weight])
            assert torch.equal(network.get_parameter(name), expected)
    assert all(torch.equal(network.get_parameter(n), weight) for n, weight in fused.items())


class Custom(nn.Module):
    """A matrix that nothing tells to be one."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(8, 8))
        self.layer = nn.Linear(8, 2)


def tied() -> nn.Module:
    network = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 8), nn.Linear(8, 50, bias=False))
    network[2].weight = network[0].weight
    return network


@pytest.mark.parametrize(
    ("build", "options", "share"),
    [
        (lambda: nn.Sequential(nn.Embedding(99, 8), nn.GRU(8, 4), nn.LayerNorm(4)), {}, 1.0),
        (tied, {}, 1.0),
        (Custom, {}, 16 / 80),
        (lambda: nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2)), {"skip": ["0"]}, 16 / 80),
        (lambda: nn.Sequential(nn.Linear(8, 8), nn.Conv1d(8, 2, 1)), {"skip": ["1"]}, 64 / 80),
        (mixtral, {}, 5632 / 5696),
        (lambda: nn.Embedding(3, 3), {}, 1.0),
    ],
    ids=[
        "embedding",
        "tied",
        "own parameters",
        "most skipped",
        "little skipped",
        "all but the router",
        "nothing to round",
    ],
)
def test_the_share_is_of_what_a_deployment_rounds(
    build: Callable[[], nn.Module], options: dict[str, Any], share: float
) -> None:
    assert Quantize(**options).share_reached(build()) == pytest.approx(share)


def test_adapters_of_experts_are_each_merged_into_their_own_parameter() -> None:
    parts = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    config = LoraConfig(r=2, target_modules=[], target_parameters=parts, init_lora_weights=False)
    adapted: Any = get_peft_model(mixtral(), config).eval()
    tokens = torch.arange(9)[None]
    merged = copy.deepcopy(adapted).merge_and_unload()
    with torch.no_grad():
        before = adapted(tokens).logits
        with Quantize(bits=3)(adapted), Quantize(bits=3)(merged):
            assert_close(adapted(tokens).logits, merged(tokens).logits, atol=1e-5, rtol=1e-5)
        assert torch.equal(adapted(tokens).logits, before)


def test_a_compiled_layer_computes_with_rounded_weights() -> None:
    network, x = (
        nn.Sequential(parametrizations.weight_norm(nn.Linear(6, 6)), COMPUTED["pruned"](nn.Linear(6, 6))),
        torch.randn(3, 6),
    )
    network.compile(backend="eager")
    with torch.no_grad():
        before = network(x)
        with Quantize(bits=3)(network):
            assert_close(network(x), network.forward(x))
            assert not torch.allclose(network(x), before)
        assert torch.equal(network(x), before)
