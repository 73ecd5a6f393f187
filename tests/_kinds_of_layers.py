"""One layer of each kind, each way in which a weight is computed, and everything of a layer that an attack puts back."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

Inputs = tuple[tuple[int, ...], ...]

# How to build it, the shapes of its inputs, and, if inputs come first in its weight, in how many groups.
LAYERS: dict[str, tuple[Callable[[], nn.Module], Inputs, int]] = {
    "linear": (lambda: nn.Linear(5, 4), ((3, 5),), 0),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, groups=2), ((2, 4, 7),), 0),
    "conv2d": (lambda: nn.Conv2d(3, 4, 2), ((2, 3, 5, 5),), 0),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2), ((2, 2, 3, 3, 3),), 0),
    "transposed": (lambda: nn.ConvTranspose1d(4, 6, 3), ((2, 4, 7),), 1),
    "transposed in groups": (lambda: nn.ConvTranspose2d(6, 4, 2, groups=2), ((2, 6, 5, 5),), 2),
    "lstm": (lambda: nn.LSTM(3, 6, 2, bidirectional=True, proj_size=2), ((5, 2, 3),), 0),
    "gru": (lambda: nn.GRU(3, 4), ((5, 2, 3),), 0),
    "rnn cell": (lambda: nn.RNNCell(3, 4), ((2, 3),), 0),
    "bilinear": (lambda: nn.Bilinear(3, 4, 2), ((5, 3), (5, 4)), 0),
    "attention": (lambda: nn.MultiheadAttention(4, 2), ((5, 2, 4),) * 3, 0),
    "attention of several sizes": (
        lambda: nn.MultiheadAttention(4, 2, kdim=3, vdim=5),
        ((5, 2, 4), (6, 2, 3), (6, 2, 5)),
        0,
    ),
}


def last(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def old(compute: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    def without_the_warning(layer: nn.Module, name: str = "weight") -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return compute(layer, name)

    return without_the_warning


def parametrized_and_frozen(layer: nn.Module) -> nn.Module:
    parametrizations.spectral_norm(layer)
    return layer.requires_grad_(False)


class Symmetric(nn.Module):
    """A user's own, without a ``right_inverse``."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight + weight.transpose(0, 1)


COMPUTED: dict[str, Callable[[Any], nn.Module]] = {
    "weight norm": parametrizations.weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "frozen spectral norm": parametrized_and_frozen,
    "orthogonal": parametrizations.orthogonal,
    "their own": lambda layer: parametrize.register_parametrization(layer, "weight", Symmetric()) or layer,
    "old weight norm": old(nn.utils.weight_norm),
    "old spectral norm": old(nn.utils.spectral_norm),
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", amount=5),
    "pruned twice": lambda layer: prune.ln_structured(
        prune.l1_unstructured(layer, "weight", amount=5), "weight", amount=1, n=2, dim=0
    ),
}


def everything(network: nn.Module) -> dict[str, Any]:
    """Objects and bits: of state, modules, hooks and computed attributes."""
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    attributes = {
        f"{name}.{key}": value
        for name, module in network.named_modules()
        for key, value in vars(module).items()
        if isinstance(value, Tensor)
    }
    return {
        "objects": {k: id(v) for k, v in {**tensors, **attributes}.items()},
        "bits": {k: v.detach().clone() for k, v in tensors.items()},
        "keys": list(network.state_dict()),
        "modules": [(name, id(module)) for name, module in network.named_modules()],
        "classes": [type(module) for module in network.modules()],
        "hooks": [list(module._forward_pre_hooks.items()) for module in network.modules()],
        "hooks behind": [list(module._forward_hooks.items()) for module in network.modules()],
    }


def assert_unchanged(network: nn.Module, before: dict[str, Any]) -> None:
    after = everything(network)
    now, then = after.pop("bits"), before["bits"]
    assert all(torch.equal(now[k], then[k]) for k in then)
    assert after == {k: v for k, v in before.items() if k != "bits"}
