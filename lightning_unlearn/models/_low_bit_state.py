"""Weights in few bits, taken back from what ``state_dict`` gave: bitsandbytes saves more than it loads."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

_PART = re.compile(r"(|.*\.)(weight\..+|SCB)")
_KIND = re.compile(r"weight\.quant_state\.bitsandbytes__(\w+)")


def loads_low_bit(network: nn.Module) -> RemovableHandle:
    """Let ``network.load_state_dict`` take back weights of bitsandbytes in few bits, with their scales.

    ``Linear4bit`` calls the scales that it has saved unexpected, and ``Linear8bitLt`` those of a network that has run.
    Weights in other bits than the network's are refused: int8 codes would pass for weights of any dtype. A checkpoint
    without the base, of an adapter alone, is loaded as it is.

    Args:
        network: Any module, in few bits or not.

    Returns:
        A handle: ``handle.remove()`` takes the hook off again.

    Raises:
        ValueError: When weights are loaded that are in other bits than the network's.

    Example:
        >>> handle = loads_low_bit(layer := nn.Linear(2, 1))
        >>> layer.load_state_dict(layer.state_dict())
        <All keys matched successfully>
    """
    handle: RemovableHandle = network.register_load_state_dict_pre_hook(_take_back)
    return handle


def _take_back(network: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    given = _scales(state)
    for start, layer in _layers(network, prefix):
        weight, codes = layer.weight, state.get(f"{start}weight")
        if codes is None:  # an adapter alone
            continue
        saved, own = _saved_as(given[start], codes), _own(layer)
        # A hook further out may have taken the scales already: then the codes look like the network's.
        if saved is None and own is not None and (codes.dtype, codes.shape) == (weight.dtype, weight.shape):
            continue
        if saved != own:
            _refuse(start, saved, own)
        if own is not None:
            scales = {name: state.pop(f"{start}{name}") for name in given[start]}
            (_take_int8 if own == "int8" else _take_4bit)(layer, codes, scales)


def _scales(state: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What stands beside the weights in few bits, by the start of the layer's names."""
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    for key, value in state.items():
        if part := _PART.fullmatch(key):
            found[part[1]][part[2]] = value
    return found


def _layers(network: nn.Module, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, layer in network.named_modules(remove_duplicate=False):
        # Not `getattr`: the weight of a parametrised layer is computed, which may change its buffers.
        if layer._parameters.get("weight") is not None:
            yield (f"{prefix}{name}." if name else prefix), layer


def _saved_as(scales: dict[str, Any], codes: Tensor) -> str | None:
    kinds = [kind[1] for name in scales if (kind := _KIND.fullmatch(name))]
    return kinds[0] if kinds else "int8" if codes.dtype == torch.int8 and "SCB" in scales else None


def _own(layer: Any) -> str | None:
    """In which bits a layer of bitsandbytes itself is. Lightning's, which are made of them, round what they load."""
    if not type(layer).__module__.startswith("bitsandbytes"):
        return None
    kind = type(layer.weight).__name__
    if kind == "Params4bit":
        bits: str = layer.weight.quant_type
        return bits
    return "int8" if kind == "Int8Params" and not layer.state.has_fp16_weights else None


def _refuse(start: str, saved: str | None, own: str | None) -> None:
    found = [f"`{bits}`" if bits else "no such rounding" for bits in (saved, own)]
    raise ValueError(
        f"Weights should be loaded into a network with the same quantization. Found {found[0]} in the file and {found[1]} "
        f"in the network, at `{start.removesuffix('.')}`. Load the network with `PretrainedCausalLM(..., "
        f"quantization={saved!r})`, as the one that was saved."
    )


def _take_4bit(layer: Any, codes: Tensor, scales: dict[str, Any]) -> None:
    from bitsandbytes.functional import QuantState
    from bitsandbytes.nn import Params4bit

    layer.state_dict()  # undoes the order in which an evaluation pass may have packed the codes for a CPU's kernel
    weight = layer.weight
    # A file without duplicates, as safetensors makes them, may lack the map that all layers have.
    own = {} if weight.quant_state is None else weight.quant_state.as_dict(packed=True)
    # Copies, or later changes of the file's would be changes here.
    copies = {name: value.clone() for name, value in scales.items()}
    whole = {**{f"weight.{name}": value for name, value in own.items()}, **copies}
    if weight.quant_state is None:  # not moved to its device yet, which would have rounded it
        layer.weight = Params4bit.from_prequantized(codes, whole, device=weight.device, module=layer)
    else:
        weight.quant_state = layer.quant_state = QuantState.from_dict(whole, device=weight.device)


def _take_int8(layer: Any, codes: Tensor, scales: dict[str, Any]) -> None:
    from bitsandbytes.nn import Int8Params

    weight = layer.weight
    if weight.dtype != torch.int8:  # not moved to its device yet, which would have rounded it
        codes, own = (value.to(weight.device, copy=True) for value in (codes, scales["SCB"]))
        layer.weight = Int8Params(codes, requires_grad=False, CB=codes, SCB=own)
        return
    for holder in (weight, layer.state):  # until the first pass the parameter holds them, and then the layer
        for held, new in ((holder.CB, codes), (holder.SCB, scales["SCB"])):
            if held is not None:
                held.copy_(new)
