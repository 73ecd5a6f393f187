"""Metrics in which a corrected step is nearest to the proposed one."""

from lightning_unlearn.guards.geometries._base import Geometry
from lightning_unlearn.guards.geometries._euclidean import Euclidean
from lightning_unlearn.guards.geometries._optimizer_metric import OptimizerMetric

__all__ = ["Euclidean", "Geometry", "OptimizerMetric"]
