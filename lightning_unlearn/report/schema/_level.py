from dataclasses import dataclass

from lightning_unlearn.observation import Subject
from lightning_unlearn.report.schema._interval import Interval


@dataclass(frozen=True)
class Level:
    """How much a model that was not attacked knows.

    Args:
        model: Whose knowledge it is.
        step: Step of the fit at which it was observed.
        metric: The metric.
        split: Name of the examples: ``"forget"``, ``"retain"`` or any other.
        interval: What was found.
        layer: Where in the network; empty for the output.
    """

    model: Subject
    step: int
    metric: str
    split: str
    interval: Interval
    layer: str = ""
