"""Choosing which gradients are protected."""

from lightning_unlearn.guards.directions._base import Direction, Directions
from lightning_unlearn.guards.directions._example_gradients import ExampleGradients
from lightning_unlearn.guards.directions._history import History
from lightning_unlearn.guards.directions._micro_batches import MicroBatches
from lightning_unlearn.guards.directions._per_example import PerExample
from lightning_unlearn.guards.directions._retain_gradient import RetainGradient

__all__ = ["Direction", "Directions", "ExampleGradients", "History", "MicroBatches", "PerExample", "RetainGradient"]
