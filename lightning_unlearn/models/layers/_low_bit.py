from __future__ import annotations

from copy import copy
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

_BITSANDBYTES = ("Params4bit", "Int8Params")
_SIDES = (("in_features", "infeatures"), ("out_features", "outfeatures"))


def is_low_bit(weight: Any) -> bool:
    """Whether ``weight`` is stored in few bits, as by bitsandbytes or torchao.

    Example:
        >>> is_low_bit(torch.ones(2)), is_low_bit(torch.ones(2, dtype=torch.int8))
        (False, True)
    """
    if not isinstance(weight, Tensor):
        return False
    # By name: 4-bit weights may be packed into a floating dtype, and bitsandbytes is an optional dependency.
    is_plain = weight.is_floating_point() or weight.is_complex()
    return type(weight).__name__ in _BITSANDBYTES or not is_plain or _knows_its_values(weight)


def dequantized(weight: Any, module: nn.Module) -> Tensor:
    """The values that a layer computes with, ``[out, in]``.

    Args:
        weight: A weight stored in few bits.
        module: The layer that holds it. Some layers of bitsandbytes hold the scales themselves after a forward pass.

    Raises:
        NotImplementedError: If it is not known how.
    """
    kind = type(weight).__name__
    if kind == "Params4bit":
        return _from_4bit(weight, module)
    if kind == "Int8Params":
        return _from_int8(weight, module)
    if _knows_its_values(weight):
        values: Tensor = weight.dequantize()
        return values
    raise NotImplementedError(
        "Weights in few bits should be those of bitsandbytes, or have a `dequantize` of their own, as in torchao. Found "
        f"`{kind}` of {weight.dtype}. Attack or measure a dequantised copy of the model."
    )


def count(parameter: Tensor) -> int:
    """How many weights ``parameter`` holds; two of 4 bits lie in one byte."""
    state: Any = getattr(parameter, "quant_state", None)
    return prod(state.shape) if state is not None else parameter.numel()


def packed_away(network: nn.Module) -> int:
    """How many weights of linear layers lie packed in buffers of integers, where no parameter tells of them.

    GPTQ and AWQ keep them so. Nobody here can read or change them.
    """
    return sum(_packed_in(module) for module in network.modules())


def _packed_in(module: Any) -> int:
    packed = getattr(module, "qweight", None)
    if not isinstance(packed, Tensor) or isinstance(packed, nn.Parameter) or packed.is_floating_point():
        return 0
    sides = [next((getattr(module, n) for n in names if hasattr(module, n)), 0) for names in _SIDES]
    return prod(sides)


def _knows_its_values(weight: Tensor) -> bool:
    # Every tensor has `dequantize`. A tensor class that hides few bits behind a floating dtype, as torchao's, overrides it.
    return type(weight).dequantize is not Tensor.dequantize


def _from_4bit(weight: Any, module: Any) -> Tensor:
    state = weight.quant_state if weight.quant_state is not None else getattr(module, "quant_state", None)
    if state is None:  # not packed yet: bitsandbytes does that when the weight is moved to its device
        plain: Tensor = weight.data
        return plain
    from bitsandbytes import functional

    codes = weight.data
    if getattr(state, "packing_format_for_cpu", False):  # by an evaluation pass on some CPUs: see `runtime.eval_mode`
        scales = state.absmax.T.reshape(-1).float()
        codes, state = functional._convert_weight_packed_for_cpu_inverse(codes, copy(state))
        state.absmax, state.nested = scales, False
    values: Tensor = functional.dequantize_4bit(codes, state)
    return values


def _from_int8(weight: Any, module: Any) -> Tensor:
    if weight.dtype != torch.int8:
        plain: Tensor = weight.data
        return plain
    scales: Tensor | None = weight.SCB if weight.SCB is not None else getattr(module, "state", weight).SCB
    if scales is None:
        raise NotImplementedError("An int8 weight of bitsandbytes should have its scales, `SCB`. Found none.")
    # `SCB` is the largest magnitude of each row, for which the code 127 stands.
    values: Tensor = weight.data.float() * (scales.float() / 127)[:, None].to(weight.device)
    return values
