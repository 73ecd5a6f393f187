"""Where an adapter starts: with it, a network says what it says without."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lightning_unlearn.models.layers import adapters, original_name, starts_at_zero


def moved_from_start(network: nn.Module) -> Iterator[str]:
    """Names of parameters that make an adapter more than the identity.

    These are second factors that are not zero, trained copies of modules that are no copies, and DoRA's magnitudes that are
    not those of the weights.
    """
    with torch.no_grad():
        params = _parameters(network)
        for name, p in params.items():
            start = torch.zeros_like(p) if starts_at_zero(name) else params.get(original_name(name), p)
            if start is not p and not torch.equal(_whole(p), _whole(start)):
                yield name
        for name, magnitude, norm in _magnitudes(network):
            # Moved to another device since, a norm is not computed to the same bits.
            if not torch.allclose(_whole(magnitude), _whole(norm).to(magnitude), rtol=1e-3):
                yield name


@torch.no_grad()
def start_again_(network: nn.Module) -> None:
    """Set what an adapter takes from its base, such as copies of modules and DoRA's magnitudes, to what the base is now."""
    params = _parameters(network)
    for name, p in params.items():
        start = params.get(original_name(name), p)
        if start is not p:
            p.copy_(start)
    for _, magnitude, norm in _magnitudes(network):
        magnitude.copy_(norm)


def _parameters(network: nn.Module) -> dict[str, Tensor]:
    # A tied weight under each of its names: the original of a copy may be known by another one.
    return dict(network.named_parameters(remove_duplicate=False))


def _magnitudes(network: nn.Module) -> Iterator[tuple[str, Tensor, Tensor]]:
    """DoRA's magnitudes, with what they would be at the start."""
    for name, adapter in adapters(network):
        for key, held in list(getattr(adapter, "lora_magnitude_vector", {}).items()):
            # PEFT's own start, whose result takes the place of the magnitudes; they are put back at once.
            adapter.lora_variant[key].init(adapter, key)
            norm = adapter.lora_magnitude_vector[key].weight
            adapter.lora_magnitude_vector[key] = held
            yield f"{name}.lora_magnitude_vector.{key}.weight", held.weight, norm


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
