from __future__ import annotations

from typing import Any

from lightning_unlearn.data import ForgetStream
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.forgetting._overlap_check import OverlapCheck
from lightning_unlearn.forgetting._supervision_check import SupervisionCheck
from lightning_unlearn.prediction import Prediction
from lightning_unlearn.readouts import Readout, refuse_foreign_labels, refuse_foreign_tokens


class ForgetBatches:
    """Gives as many forget micro-batches per step as the step had retain micro-batches, and checks them.

    Args:
        engine: Moves them to the device.
        stream: The forget data.
        readout: Gives each example a key, to find examples that are in both sets.
    """

    def __init__(self, engine: GradientEngine, stream: ForgetStream, readout: Readout) -> None:
        self._engine = engine
        self._network = readout.find_network(engine.module)
        self._stream = stream
        self._overlap = OverlapCheck(readout)
        self._supervision = SupervisionCheck(engine, stream.loader)
        self._due = 0

    def saw_retain(self, batch: Any) -> None:
        """Count a retain micro-batch: one more forget micro-batch is due."""
        # Counted, not read off `accumulate_grad_batches`: the last step of an epoch may have fewer micro-batches.
        self._due += 1
        if self._is_first_epoch():
            refuse_foreign_tokens(self._network, batch)
            self._overlap.saw_retain(batch)

    def take(self) -> list[Any]:
        """The forget micro-batches that are due, on the device."""
        given = [next(self._stream) for _ in range(self._due)]
        self._due = 0
        if self._is_first_epoch():
            for batch in given:  # still on the CPU, where looking costs nothing
                refuse_foreign_tokens(self._network, batch)
        batches = [self._engine.to_device(batch) for batch in given]
        if self._is_first_epoch():
            self._overlap.saw_forget(batches)
        return batches

    def saw_prediction(self, prediction: Prediction) -> None:
        """Count what is supervised in a forget micro-batch."""
        if self._is_first_epoch():
            refuse_foreign_labels(prediction)
        self._supervision.saw(prediction)

    def refuse_unsupervised(self, *, is_end: bool = False) -> None:
        """Refuse forget data without a supervised label. Collective: every rank must call it.

        Raises:
            ValueError: If all forget data has been seen without finding one, or at the end of the fit.
        """
        self._supervision.check(is_end=is_end)

    def _is_first_epoch(self) -> bool:
        # After one epoch every retain example has been seen: checking again would find nothing new.
        return self._engine.trainer is None or self._engine.trainer.current_epoch == 0
