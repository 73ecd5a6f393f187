"""An attack by torchao computes what a model does that torchao has rounded."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from lightning_unlearn import TorchAO

KERNELS = ("int8", "int8-dynamic", "int4")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 8))


@pytest.mark.parametrize("kernel", KERNELS)
def test_it_is_the_model_that_the_package_rounds_and_leaves_nothing_behind(kernel: Any) -> None:
    ao = pytest.importorskip("torchao.quantization", reason="its kernels are what is tested")
    configs: dict[str, Any] = {
        "int8": ao.Int8WeightOnlyConfig,
        "int8-dynamic": ao.Int8DynamicActivationInt8WeightConfig,
        "int4": lambda: ao.IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=ao.PerGroup(32)),
    }
    net, x = network(), torch.randn(5, 64)
    ao.quantize_(deployed := copy.deepcopy(net), configs[kernel]())
    drawn, members = torch.get_rng_state(), [set(vars(m)) for m in net.modules()]
    with torch.no_grad():
        plain = net(x)
        with TorchAO(kernel)(net) as points:
            assert list(points) == [4 if kernel == "int4" else 8]
            assert torch.equal(net(x), deployed(x))
            assert not torch.equal(net(x), plain)
        assert torch.equal(net(x), plain)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert [set(vars(m)) for m in net.modules()] == members


@pytest.mark.parametrize("kernel", KERNELS)
def test_gradients_reach_weights_and_inputs(kernel: Any) -> None:
    pytest.importorskip("torchao.quantization", reason="its kernels are what is tested")
    net, x = network(), torch.randn(5, 64, requires_grad=True)
    with TorchAO(kernel)(net):
        net(x).sum().backward()
    assert x.grad is not None
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_layers_that_groups_do_not_fit_stay_and_are_said() -> None:
    pytest.importorskip("torchao.quantization", reason="its kernels are what is tested")
    net = nn.Sequential(nn.Linear(64, 10), nn.Linear(10, 64))
    assert TorchAO("int4").share_reached(net) == 0.5
    assert TorchAO("int8").share_reached(net) == 1


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_unlearn.models._extras.find_package", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"needs the package `torchao`: `pip install torchao`"):
        TorchAO()
    with pytest.raises(ValueError, match="`kernel` should be 'int8', 'int8-dynamic' or 'int4'"):
        TorchAO("int2")  # type: ignore[arg-type]
