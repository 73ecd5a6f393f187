"""Choosing which inputs of a layer are protected, and projecting steps."""

from lightning_unlearn.guards.subspaces._base import Subspace
from lightning_unlearn.guards.subspaces._decided_projection import decided_projection
from lightning_unlearn.guards.subspaces._input_layers import InputLayer, input_layers
from lightning_unlearn.guards.subspaces._input_subspace import InputSubspace
from lightning_unlearn.guards.subspaces._layer_inputs import record_inputs
from lightning_unlearn.guards.subspaces._null_space import NullSpace
from lightning_unlearn.guards.subspaces._protected_inputs import ProtectedInputs, refuse_missing

__all__ = [
    "InputLayer",
    "InputSubspace",
    "NullSpace",
    "ProtectedInputs",
    "Subspace",
    "decided_projection",
    "input_layers",
    "record_inputs",
    "refuse_missing",
]
