"""An attack by bitsandbytes is the model that transformers loads by it, and leaves nothing behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from _few_bits import KINDS, folder
from _language_models import batch, family
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_unlearn import BitsAndBytes, Quantize
from lightning_unlearn.models import PretrainedCausalLM

pytest.importorskip("bitsandbytes", reason="its kernels are what is tested")
every_kernel = pytest.mark.parametrize("kernel", KINDS)


def said(network: nn.Module) -> Tensor:
    with torch.no_grad():
        return network.eval()(**batch()).logits


@every_kernel
def test_under_attack_a_model_says_what_it_says_where_it_is_loaded_in_few_bits(kernel: Any) -> None:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    four = {"load_in_4bit": True, "bnb_4bit_quant_type": kernel, "bnb_4bit_compute_dtype": torch.float32}
    config = BitsAndBytesConfig(**({"load_in_8bit": True} if kernel == "int8" else four))
    # In float16, as where it is deployed.
    dtype = torch.float16 if kernel == "int8" else torch.float32
    deployed = AutoModelForCausalLM.from_pretrained(
        folder(), quantization_config=config, device_map={"": "cpu"}, dtype=dtype
    )
    for layer in deployed.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):  # a kernel of some CPUs alone, which rounds inputs, too
            layer.support_avx512bf16_for_cpu = False
    network = PretrainedCausalLM(folder(), dtype="float16" if kernel == "int8" else "float32")
    plain = said(network)
    with BitsAndBytes(kernel)(network) as points:
        attacked = said(network)
        assert list(points) == [8 if kernel == "int8" else 4]
    assert torch.equal(attacked, said(deployed))
    assert not torch.equal(attacked, plain)
    assert torch.equal(said(network), plain)


@pytest.mark.parametrize("kernel", ["nf4", "fp4"])
@pytest.mark.parametrize("name", ["llama", "gpt2"])  # the second one's layers are `Conv1D`
def test_four_bits_are_those_that_our_rounding_gives(kernel: Any, name: str) -> None:
    network = family(name)
    with BitsAndBytes(kernel)(network):
        by_kernel = said(network)
    with Quantize(4, codebook=kernel)(network):
        by_rounding = said(network)
    assert_close(by_kernel, by_rounding, rtol=1e-5, atol=1e-5)


def test_eight_bits_round_activations_too_but_for_outliers() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(64, 32), torch.randn(8, 64).half().float()
    x[:, 3] = 20.0  # an outlier in one feature

    def by_hand(columns: Tensor) -> Tensor:
        rounded = {}
        for what, values in (("w", layer.weight.detach()), ("x", x * columns)):
            scale = values.half().float().abs().amax(1, keepdim=True) / 127
            rounded[what] = (values.half().float() / scale).round() * scale
        return (rounded["x"] * columns) @ rounded["w"].T + (x * ~columns) @ rounded["w"].T + layer.bias.detach()

    for threshold, inside in ((6.0, x.abs().amax(0) < 6), (0.0, torch.ones(64, dtype=torch.bool))):
        with BitsAndBytes("int8", threshold=threshold)(layer), torch.no_grad():
            assert_close(layer(x), by_hand(inside), rtol=5e-3, atol=5e-3)
    assert (by_hand(x.abs().amax(0) < 6) - by_hand(torch.ones(64, dtype=torch.bool))).abs().max() > 0.02


@every_kernel
def test_no_module_name_hook_or_tie_is_touched_even_while_it_runs(kernel: Any) -> None:
    network = family("gpt2")  # its head is tied
    modules = [(name, id(m), type(m)) for name, m in network.named_modules()]
    tensors = [(name, id(p), p.dtype, p._version) for name, p in network.named_parameters(remove_duplicate=False)]
    keys = list(network.state_dict())
    hooks = [(list(m._forward_hooks), list(m._forward_pre_hooks)) for m in network.modules()]
    members = [set(vars(m)) for m in network.modules()]
    forward = network.transformer.h[0].attn.c_attn.forward
    with BitsAndBytes(kernel)(network):
        assert [(name, id(m), type(m)) for name, m in network.named_modules()] == modules
        assert list(network.state_dict()) == keys
        assert [
            (name, id(p), p.dtype, p._version) for name, p in network.named_parameters(remove_duplicate=False)
        ] == tensors
        assert network.lm_head.weight is network.transformer.wte.weight
    assert [set(vars(m)) for m in network.modules()] == members
    assert [(list(m._forward_hooks), list(m._forward_pre_hooks)) for m in network.modules()] == hooks
    assert network.transformer.h[0].attn.c_attn.forward == forward


def test_a_layer_may_be_called_by_the_name_of_its_argument() -> None:
    layer, x = nn.Linear(64, 4), torch.randn(2, 64)
    with BitsAndBytes()(layer):
        assert torch.equal(layer(input=x), layer(x))


def test_a_forward_that_somebody_set_on_a_layer_is_put_back() -> None:
    layer = nn.Linear(64, 4)
    layer.forward = own = lambda x: x  # type: ignore[assignment]
    with BitsAndBytes()(layer):
        assert layer.forward is not own
    assert layer.forward is own


@every_kernel
@pytest.mark.parametrize("merge", [True, False])
def test_adapters_are_merged_first_or_work_on_top(kernel: Any, merge: bool) -> None:
    network = family("llama", lora=True)
    plain = said(network)
    with BitsAndBytes(kernel, merge_adapters=merge)(network):
        attacked = said(network)
    assert torch.equal(said(network), plain)
    if merge:
        merged = network.merge_and_unload()
        with BitsAndBytes(kernel)(merged):
            assert_close(attacked, said(merged), rtol=1e-4, atol=1e-4)
    else:
        with network.disable_adapter(), BitsAndBytes(kernel, merge_adapters=False)(network):
            assert not torch.allclose(attacked, said(network), atol=1e-2)


@every_kernel
def test_gradients_go_straight_through_to_weights_and_through_the_kernel_to_inputs(kernel: Any) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(64, 8), torch.randn(3, 64, requires_grad=True)
    pull = torch.randn(3, 8)
    with BitsAndBytes(kernel)(layer):
        said = layer(x)
        (said * pull).sum().backward()
        with torch.no_grad():
            assert torch.equal(said, layer(x))  # a graph changes no value
            columns = torch.eye(64)
            weight = (layer(columns) - layer(torch.zeros(1, 64))).T
    assert_close(layer.weight.grad, pull.T @ x.detach())
    assert_close(layer.bias.grad, pull.sum(0))
    assert_close(x.grad, pull @ weight, rtol=2e-2, atol=2e-2)


def test_layers_that_share_a_weight_compute_by_the_kernel_all_of_them() -> None:
    torch.manual_seed(0)
    first, second = nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False)
    second.weight = first.weight
    network, x = nn.Sequential(first, second), torch.randn(2, 64)
    with Quantize(4, codebook="nf4")(network), torch.no_grad():
        expected = network(x)
    with BitsAndBytes()(network), torch.no_grad():
        assert_close(network(x), expected, rtol=1e-5, atol=1e-5)


def test_compiled_layers_compute_by_the_kernel_too() -> None:
    torch.manual_seed(0)
    network, x = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)), torch.randn(2, 64)
    with Quantize(4, codebook="nf4")(network), torch.no_grad():
        expected = network(x)
    network.compile(backend="eager")
    plain = network(x)
    with BitsAndBytes()(network), torch.no_grad():
        assert_close(network(x), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(network(x), plain)


def test_what_has_no_kernel_stays_and_is_said() -> None:
    convolution = nn.Sequential(nn.Conv1d(4, 16, 4), nn.Flatten(), nn.Linear(16, 16))
    assert BitsAndBytes().share_reached(convolution) == 0.5
    attention = nn.MultiheadAttention(16, 2)
    with pytest.raises(ValueError, match=r"should hold weights to store in few bits.*no linear layer that is called"):
        BitsAndBytes()(attention).__enter__()
    assert BitsAndBytes(skip=["2"]).share_reached(convolution) == 0


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_unlearn.models._extras.find_package", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"needs the package `bitsandbytes`: `pip install lightning-unlearn"):
        BitsAndBytes()
