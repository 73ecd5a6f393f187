"""What a network in few bits saved, it loads: whatever happened to it in between."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from _few_bits import KINDS, by_hand, in_bits, said
from safetensors.torch import load_model, save_model
from torch import nn

from lightning_unlearn.models import loads_low_bit
from lightning_unlearn.runtime import checksum, eval_without_grad

bnb = pytest.importorskip("bitsandbytes", reason="bitsandbytes stores weights in few bits")
pytestmark = pytest.mark.filterwarnings("ignore:MatMul8bitLt:UserWarning")


def other(kind: str) -> Any:
    return in_bits(kind, base=5)


NETWORKS = {
    "new": lambda kind: other(kind),
    "has run": lambda kind: (n := other(kind), said(n))[0],
    "copied": lambda kind: deepcopy(other(kind)),
    "copied after it ran": lambda kind: deepcopy((n := other(kind), said(n))[0]),
}


@pytest.mark.parametrize("what", NETWORKS)
@pytest.mark.parametrize("kind", KINDS)
def test_it_says_what_was_saved(kind: str, what: str) -> None:
    network, wanted = NETWORKS[what](kind), in_bits(kind)
    before = said(wanted)
    loads_low_bit(network) if "copied" in what else None  # twice does no harm
    network.load_state_dict(wanted.state_dict())
    assert torch.equal(said(network), before)
    assert torch.equal(said(network), before)  # nor does a pass put old codes back
    assert checksum(network) == checksum(wanted)
    assert not torch.equal(said(other(kind)), before)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_loaded_is_a_copy(kind: str) -> None:
    network, wanted = other(kind), in_bits(kind)
    state = {name: value.clone() for name, value in wanted.state_dict().items()}
    network.load_state_dict(state)
    before = said(network)
    for value in state.values():
        value.zero_()
    assert torch.equal(said(network), before)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_networks_that_others_loaded_and_files_of_safetensors(kind: str, tmp_path: Path) -> None:
    wanted, network = by_hand(kind), by_hand(kind)
    with torch.no_grad():
        for p in wanted.parameters():
            p.add_(0.1) if p.requires_grad else None
    save_model(wanted, str(tmp_path / "x.safetensors"))
    handle = loads_low_bit(network)
    load_model(network, tmp_path / "x.safetensors")
    handle.remove()
    assert torch.equal(said(network), said(wanted))
    assert not network._load_state_dict_pre_hooks


def test_an_adapter_alone_and_nothing_at_all() -> None:
    network, wanted = in_bits("nf4"), in_bits("nf4")
    with torch.no_grad():
        for p in wanted.parameters():
            p.add_(0.1) if p.requires_grad else None
    adapter = {name: value for name, value in wanted.state_dict().items() if "lora_" in name}
    assert not network.load_state_dict(adapter, strict=False).unexpected_keys
    assert torch.equal(said(network), said(wanted))
    network.load_state_dict({}, strict=False)
    assert torch.equal(said(network), said(wanted))


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_layers_that_were_not_moved_to_their_device_yet(kind: str) -> None:
    def layer() -> nn.Module:
        if kind == "int8":
            return nn.Sequential(bnb.nn.Linear8bitLt(64, 8, bias=True, has_fp16_weights=False))
        return nn.Sequential(bnb.nn.Linear4bit(64, 8, quant_type=kind))

    wanted, new, x = layer().to("cpu"), layer(), torch.randn(3, 64)
    loads_low_bit(new)
    new.load_state_dict(wanted.state_dict())
    new.to("cpu")
    with eval_without_grad(new), eval_without_grad(wanted):
        assert torch.equal(new(x), wanted(x))


def test_other_modules_with_such_names_load_as_ever() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.ModuleDict({"absmax": nn.Linear(2, 2)})
            self.SCB = nn.Parameter(torch.ones(2))
            self.codes = nn.Parameter(torch.ones(2, dtype=torch.int8), requires_grad=False)

    module, wanted = nn.Sequential(Odd(), nn.Linear(2, 2)), nn.Sequential(Odd(), nn.Linear(2, 2))
    loads_low_bit(module)
    module.load_state_dict(wanted.state_dict())
    assert torch.equal(module[0].weight["absmax"].weight, wanted[0].weight["absmax"].weight)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        module.load_state_dict({**wanted.state_dict(), "0.more": torch.ones(1)})


@pytest.mark.parametrize("kind", KINDS)
def test_a_checksum_tells_scales_apart(kind: str) -> None:
    """Weights of twice the size have the same codes."""
    network = in_bits(kind)
    before = checksum(network)
    said(network)
    assert checksum(network) == before
    state = network.state_dict()
    name = next(n for n in state if n.endswith(("absmax", "SCB")))
    network.load_state_dict({**state, name: state[name] * 2})
    assert checksum(network) != before
