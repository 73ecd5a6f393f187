"""What guards are put together from: a rule, directions, a geometry; the subspace of inputs that is protected."""

from lightning_unlearn.guards._cone import Cone
from lightning_unlearn.guards._directions import Direction, Directions
from lightning_unlearn.guards._euclidean import Euclidean
from lightning_unlearn.guards._geometry import Geometry
from lightning_unlearn.guards._history import History
from lightning_unlearn.guards._input_layers import InputLayer, input_layers
from lightning_unlearn.guards._input_subspace import InputSubspace
from lightning_unlearn.guards._micro_batches import MicroBatches
from lightning_unlearn.guards._null import Null
from lightning_unlearn.guards._null_space import NullSpace
from lightning_unlearn.guards._optimizer_metric import OptimizerMetric
from lightning_unlearn.guards._per_example import PerExample
from lightning_unlearn.guards._retain_gradient import RetainGradient
from lightning_unlearn.guards._rule import Rule
from lightning_unlearn.guards._storage import Storage, stored
from lightning_unlearn.guards._subspace import Subspace
from lightning_unlearn.guards._watch import Watch

__all__ = [
    "Cone",
    "Direction",
    "Directions",
    "Euclidean",
    "Geometry",
    "History",
    "InputLayer",
    "InputSubspace",
    "MicroBatches",
    "Null",
    "NullSpace",
    "OptimizerMetric",
    "PerExample",
    "RetainGradient",
    "Rule",
    "Storage",
    "Subspace",
    "Watch",
    "input_layers",
    "stored",
]
