"""Looking at a network leaves every mode, and the gradient switch, as found."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_unlearn.runtime import eval_mode, eval_without_grad


@pytest.fixture
def network() -> nn.Module:
    frozen = nn.Sequential(nn.BatchNorm1d(2).eval(), nn.Dropout())
    return nn.Sequential(nn.Linear(2, 2), frozen, nn.Dropout().eval())


def modes(network: nn.Module) -> list[bool]:
    return [m.training for m in network.modules()]


@pytest.mark.parametrize("context", [eval_mode, eval_without_grad])
@pytest.mark.parametrize("fails", [False, True])
def test_modes_come_back_one_by_one(network: nn.Module, context: object, fails: bool) -> None:
    before = modes(network)
    assert len(set(before)) == 2
    try:
        with context(network), context(network):
            assert not any(modes(network))
            network[1].train()
            if fails:
                raise RuntimeError
    except RuntimeError:
        pass
    assert modes(network) == before


def test_running_statistics_and_random_numbers_stay_as_they_are(network: nn.Module) -> None:
    network[1][0].train()
    mean, state = network[1][0].running_mean.clone(), torch.get_rng_state()
    with eval_without_grad(network):
        network(torch.randn(8, 2, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(network[1][0].running_mean, mean)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("enabled", [True, False])
def test_only_looking_takes_no_gradients(network: nn.Module, enabled: bool) -> None:
    with torch.set_grad_enabled(enabled):
        with eval_without_grad(network):
            assert not network(torch.ones(1, 2)).requires_grad
        assert torch.is_grad_enabled() is enabled
        with eval_mode(network):
            assert network(torch.ones(1, 2)).requires_grad is enabled


def test_modules_that_override_train_come_back_too() -> None:
    class Stubborn(nn.Module):
        def train(self, mode: bool = True) -> nn.Module:
            return super().train(False)

    network = Stubborn()
    network.training = True
    with eval_mode(network):
        assert not network.training
    assert network.training


@pytest.mark.parametrize(
    ("network", "enabled"), [(nn.GRU(2, 2), False), (nn.Sequential(nn.LSTM(2, 2)), False), (nn.GRUCell(2, 2), True)]
)
@pytest.mark.parametrize("fails", [False, True])
def test_backward_of_recurrent_layers_is_without_cudnn(network: nn.Module, enabled: bool, fails: bool) -> None:
    """cuDNN refuses it in evaluation mode: "RNN backward can only be called in training mode"."""
    before = torch.backends.cudnn.enabled
    with eval_without_grad(network):
        assert torch.backends.cudnn.enabled == before
    try:
        with eval_mode(network):
            assert torch.backends.cudnn.enabled == (enabled and before)
            if fails:
                raise RuntimeError
    except RuntimeError:
        pass
    assert torch.backends.cudnn.enabled == before


def test_a_pass_that_looks_on_repacks_no_weights() -> None:
    """As bitsandbytes does, on CPUs that have a kernel for it, in the first evaluation pass, and never undoes."""
    bnb = pytest.importorskip("bitsandbytes", reason="whose layers repack")
    layer = bnb.nn.Linear4bit(64, 32, quant_type="nf4", compute_dtype=torch.float32).to("cpu")
    layer.support_avx512bf16_for_cpu = True  # on every machine: without the kernel, the pass would fail
    network, x = nn.Sequential(layer, nn.Linear(32, 2)), torch.randn(3, 64)
    codes, scales = layer.weight.data.clone(), layer.weight.quant_state.absmax.clone()
    with eval_without_grad(network):
        network(x)
    assert torch.equal(layer.weight.data, codes)
    assert torch.equal(layer.weight.quant_state.absmax, scales)
    assert layer.support_avx512bf16_for_cpu is True
    with pytest.raises(ZeroDivisionError), eval_without_grad(network):
        1 / 0
    assert layer.support_avx512bf16_for_cpu is True
