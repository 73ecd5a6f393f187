"""In which metric a step is nearest to another."""

from lightning_unlearn.guards.geometries._base import Geometry
from lightning_unlearn.guards.geometries._euclidean import Euclidean
from lightning_unlearn.guards.geometries._optimizer_metric import OptimizerMetric

__all__ = ["Euclidean", "Geometry", "OptimizerMetric"]
