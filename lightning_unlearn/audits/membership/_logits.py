from collections.abc import Mapping

from lightning_unlearn.metrics import KnowledgeMetric
from lightning_unlearn.readouts import Readout
from lightning_unlearn.runtime import Misfit


def refuse_without_logits(scores: Mapping[str, KnowledgeMetric], readout: Readout) -> None:
    """Refuse scores that need logits where the readout gives none.

    Raises:
        Misfit: If there is one.
    """
    for name, metric in scores.items():
        if metric.needs_logits and not readout.gives_logits:
            raise Misfit(
                f"`{type(metric).__name__}`, the score `{name}`, should get logits. Found `{readout!r}`, which gives the "
                "loss of `training_step` and nothing else. Use the score `Loss()`, or write a `Readout` of your own."
            )
