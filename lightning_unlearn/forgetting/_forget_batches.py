from __future__ import annotations

from typing import Any

from lightning_unlearn.data import ForgetStream
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.forgetting._overlap_check import OverlapCheck
from lightning_unlearn.forgetting._supervision_check import SupervisionCheck
from lightning_unlearn.prediction import Prediction
from lightning_unlearn.readouts import Readout


class ForgetBatches:
    """As many forget micro-batches for a step as it had retain micro-batches, checked on their way.

    Args:
        engine: Moves them to the device.
        stream: Where they come from.
        readout: Tells examples apart, to find those that are in both sets.
    """

    def __init__(self, engine: GradientEngine, stream: ForgetStream, readout: Readout) -> None:
        self._engine = engine
        self._stream = stream
        self._overlap = OverlapCheck(readout)
        self._supervision = SupervisionCheck(engine, stream.loader)
        self._due = 0

    def saw_retain(self, batch: Any) -> None:
        """A retain micro-batch begins: one more of the forget data is due."""
        self._due += 1
        if self._is_first_epoch():
            self._overlap.saw_retain(batch)

    def take(self) -> list[Any]:
        """What is due, on the device."""
        batches = [self._engine.to_device(next(self._stream)) for _ in range(self._due)]
        self._due = 0
        if self._is_first_epoch():
            self._overlap.saw_forget(batches)
        return batches

    def saw_prediction(self, prediction: Prediction) -> None:
        """Count what is supervised in a forget micro-batch."""
        self._supervision.saw(prediction)

    def refuse_unsupervised(self, *, is_end: bool = False) -> None:
        """Refuse forget data of which nothing is supervised; all processes have to ask.

        Raises:
            ValueError: If that is known by now, or if it is the end of the fit.
        """
        self._supervision.check(is_end=is_end)

    def _is_first_epoch(self) -> bool:
        # After one epoch every retain example has been seen: looking again would find nothing new.
        return self._engine.trainer is None or self._engine.trainer.current_epoch == 0
