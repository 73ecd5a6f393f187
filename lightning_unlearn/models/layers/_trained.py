from __future__ import annotations

from typing import Any

from torch import nn

from lightning_unlearn.models.layers._matrices import covered_share, own_matrices
from lightning_unlearn.models.layers._matrix import Matrix


def is_trained(matrix: Matrix) -> bool:
    """Whether training changes what a layer computes with: the weight itself, or an active adapter around it.

    Example:
        >>> is_trained(own_matrices(nn.Linear(1, 1))[0])
        True
    """
    return any(p.requires_grad for p in matrix.parameters) or any(_trains(adapter) for adapter in matrix.adapters)


def trained_share(network: nn.Module) -> float:
    """The share of the weights of matrices, embeddings and adapters aside, that training changes; 1 if there are none.

    Under an adapter that trains, all of a weight counts: the sum of both changes everywhere.

    Example:
        >>> network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
        >>> _ = network[0].requires_grad_(False)
        >>> trained_share(network)
        0.25
    """
    own = own_matrices(network)
    return covered_share(network, filter(is_trained, own), among=own)


def _trains(adapter: Any) -> bool:
    if getattr(adapter, "disable_adapters", False):
        return False
    own = ((name, p) for name, p in adapter.named_parameters() if not name.startswith("base_layer."))
    active = set(adapter.active_adapters)
    return any(p.requires_grad and active.intersection(name.split(".")) for name, p in own)
