"""Callbacks that keep each optimizer step from harming what must stay, and their parts."""

from lightning_unlearn.guards._sign_gate import SignGate
from lightning_unlearn.guards._step_guard import StepGuard
from lightning_unlearn.guards._subspace_guard import SubspaceGuard
from lightning_unlearn.guards.directions import Direction, Directions, History, MicroBatches, PerExample, RetainGradient
from lightning_unlearn.guards.geometries import Euclidean, Geometry, OptimizerMetric
from lightning_unlearn.guards.rules import Monitor, NoChange, NoIncrease, Rule
from lightning_unlearn.guards.storages import BFloat16, Float32, Int8, MainMemory, MatrixFree, Storage
from lightning_unlearn.guards.subspaces import InputLayer, InputSubspace, NullSpace, Subspace, input_layers

__all__ = [
    "BFloat16",
    "Direction",
    "Directions",
    "Euclidean",
    "Float32",
    "Geometry",
    "History",
    "InputLayer",
    "InputSubspace",
    "Int8",
    "MainMemory",
    "MatrixFree",
    "MicroBatches",
    "Monitor",
    "NoChange",
    "NoIncrease",
    "NullSpace",
    "OptimizerMetric",
    "PerExample",
    "RetainGradient",
    "Rule",
    "SignGate",
    "StepGuard",
    "Storage",
    "Subspace",
    "SubspaceGuard",
    "input_layers",
]
