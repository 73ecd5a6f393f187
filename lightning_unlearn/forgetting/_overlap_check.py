from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lightning_unlearn.readouts import Readout
from lightning_unlearn.runtime import in_main_memory


class OverlapCheck:
    """Refuse forget examples among the retain data: training on them would teach what must go.

    Examples are compared by the readout's keys, that is, by content. Each rank compares what it has seen itself.
    """

    def __init__(self, readout: Readout) -> None:
        self._readout = readout
        self._forget: set[str] = set()
        self._retain: set[str] = set()

    def saw_forget(self, batches: Iterable[Any]) -> None:
        """Remember the examples of forget micro-batches."""
        for batch in batches:
            self._forget.update(self._readout.contents(in_main_memory(batch)))
        self._refuse()

    def saw_retain(self, batch: Any) -> None:
        """Remember the examples of a retain micro-batch, if the readout can read it."""
        try:
            self._retain.update(self._readout.contents(in_main_memory(batch)))
        except (ValueError, TypeError, KeyError, AttributeError):
            return  # the user's own kind of batch, which only their `training_step` understands: it cannot be checked
        self._refuse()

    def _refuse(self) -> None:
        if common := self._forget & self._retain:
            raise ValueError(
                f"Forget and retain data should share no example. Found {len(common)} in both, after "
                f"{len(self._forget)} forget and {len(self._retain)} retain examples. Take what must go out of the data you "
                "train on. (Under LightningCLI, nested datamodules silently get the hyper-parameters of the top-level "
                "`data:`; `ForgetRetainData` builds its parts itself and is safe from it.)"
            )
