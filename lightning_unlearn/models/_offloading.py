from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from lightning_unlearn.models.layers import base_model

_ALREADY_THERE = {"cpu", "meta"}
_SMALLEST = 1 << 20  # bytes: the way of a smaller tensor takes longer than its memory is worth


def offload_activations(network: nn.Module) -> None:
    """Let a transformers model, with an adapter or without, keep in the CPU's memory what its layers save for backward.

    Weights stay where they are. The numbers are the same ones, so losses and gradients are, to the bit. Logits are not
    saved by layers; what keeps them small is the readout. Nothing happens on the CPU.
    """
    model: Any = base_model(network)
    body: nn.Module = getattr(model, getattr(model, "base_model_prefix", ""), model)
    scopes = _Scopes(network)
    body.register_forward_pre_hook(scopes.enter)
    body.register_forward_hook(scopes.leave, always_call=True)


class _Scopes:
    """Hooks of a module, between which tensors that are saved are moved."""

    def __init__(self, network: nn.Module) -> None:
        self._network = [network]  # in a list, so that it is no submodule of anybody's
        self._open: list[saved_tensors_hooks] = []

    def enter(self, *_: Any) -> None:
        weights = {p.untyped_storage().data_ptr() for p in self._network[0].parameters()}

        def pack(tensor: Tensor) -> Any:
            size = tensor.numel() * tensor.element_size()
            if (
                tensor.device.type in _ALREADY_THERE
                or size < _SMALLEST
                or tensor.untyped_storage().data_ptr() in weights
            ):
                return tensor
            there = torch.empty_like(tensor, device="cpu", pin_memory=tensor.device.type == "cuda")
            return tensor.device, there.copy_(tensor, non_blocking=True)

        scope = saved_tensors_hooks(pack, _unpack)
        scope.__enter__()
        self._open.append(scope)

    def leave(self, *_: Any) -> None:
        if self._open:  # else another's hook raised before ours
            self._open.pop().__exit__(None, None, None)


def _unpack(packed: Any) -> Tensor:
    # On the stream of the copy to the CPU, hence after it.
    return packed if isinstance(packed, Tensor) else packed[1].to(packed[0], non_blocking=True)
