"""What a :class:`StepGuard` is put together from: a rule, directions, a geometry."""

from lightning_unlearn.guards._cone import Cone
from lightning_unlearn.guards._directions import Direction, Directions
from lightning_unlearn.guards._euclidean import Euclidean
from lightning_unlearn.guards._geometry import Geometry
from lightning_unlearn.guards._history import History
from lightning_unlearn.guards._micro_batches import MicroBatches
from lightning_unlearn.guards._null import Null
from lightning_unlearn.guards._optimizer_metric import OptimizerMetric
from lightning_unlearn.guards._per_example import PerExample
from lightning_unlearn.guards._retain_gradient import RetainGradient
from lightning_unlearn.guards._rule import Rule
from lightning_unlearn.guards._storage import Storage, stored
from lightning_unlearn.guards._watch import Watch

__all__ = [
    "Cone",
    "Direction",
    "Directions",
    "Euclidean",
    "Geometry",
    "History",
    "MicroBatches",
    "Null",
    "OptimizerMetric",
    "PerExample",
    "RetainGradient",
    "Rule",
    "Storage",
    "Watch",
    "stored",
]
