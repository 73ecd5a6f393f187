from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl

from lightning_unlearn.data import ForgetStream, RowsByEpoch
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.forgetting._batch_window import BatchWindow, WaitingBatch
from lightning_unlearn.forgetting._overlap_check import OverlapCheck
from lightning_unlearn.forgetting._small_batches import small_batches_explained
from lightning_unlearn.forgetting._supervision_check import SupervisionCheck
from lightning_unlearn.prediction import Likelihood
from lightning_unlearn.readouts import Readout, refuse_foreign_labels, refuse_foreign_tokens
from lightning_unlearn.runtime import data_share, seed_random_states, seeded

NumberedBatch = tuple[int, Any]
"""A forget micro-batch on the device, with the seed of the random numbers that are drawn for it."""

_PASSES = 1
"""Tells the seeds of passes from those of the loader, which augments at the same positions."""


class ForgetBatches:
    """Gives as many forget micro-batches per step as the step had retain micro-batches, and checks them.

    Each has random numbers of its own, for augmentation on the device, dropout and the like: a pure function of seed,
    position and rank. So a resumed fit draws the same, and the fit's own random numbers are not touched.

    Args:
        engine: Moves them to the device.
        stream: The forget data.
        readout: Gives each example a key, to find examples that are in both sets.
        seed: Of the random numbers.
        reach: How many further micro-batches an attacker may be given.
    """

    def __init__(
        self, engine: GradientEngine, stream: ForgetStream, readout: Readout, *, seed: int = 0, reach: int = 0
    ) -> None:
        self._engine = engine
        self._network = readout.find_network(engine.module)
        self._overlap = OverlapCheck(readout)
        self._supervision = SupervisionCheck(engine, stream.loader)
        # Not the rank: processes that run the same examples together must draw the same numbers.
        seeds = (seed, data_share(engine.trainer)[0], _PASSES)
        self._window = BatchWindow(stream, seeds, readout.contents, reach)
        self._taken: list[WaitingBatch] = []
        self._due = 0

    @property
    def position(self) -> int:
        """How many micro-batches were taken since the start of training."""
        return self._window.position

    def seek(self, position: int) -> None:
        """Go to micro-batch number ``position``."""
        self._window.seek(position)

    def saw_retain(self, batch: Any) -> None:
        """Count a retain micro-batch: one more forget micro-batch is due."""
        # Counted, not read off `accumulate_grad_batches`: the last step of an epoch may have fewer micro-batches.
        self._due += 1
        if self._is_first_epoch():
            refuse_foreign_tokens(self._network, batch)
            self._overlap.saw_retain(batch)

    def take(self) -> list[NumberedBatch]:
        """The forget micro-batches that are due."""
        self._taken = self._window.take(self._due)
        self._due = 0
        batches = [(waiting.seed, self._on_device(waiting)) for waiting in self._taken]
        if self._is_first_epoch():
            self._overlap.saw_forget([batch for _, batch in batches])
        return batches

    def pass_over(self) -> None:
        """Take none in this step."""
        self._due = 0

    def others(self) -> list[Any]:
        """Forget micro-batches for an attacker: without an example of those that were taken last. Collective."""
        return [self._on_device(waiting) for waiting in self._window.others(self._taken)]

    def following(self) -> list[Any]:
        """The forget micro-batches that come next, with whatever examples."""
        return [self._on_device(waiting) for waiting in self._window.following()]

    @contextmanager
    def opened(self, numbered: NumberedBatch) -> Iterator[Any]:
        """Run the micro-batch with its own random numbers: inside a pass of the engine, which puts back the fit's."""
        # In each pass anew: one that is repeated at another loss scale draws the same.
        seed, batch = numbered
        seed_random_states(seed)
        with small_batches_explained():
            yield batch

    def saw_prediction(self, prediction: Likelihood) -> None:
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

    def _on_device(self, waiting: WaitingBatch) -> Any:
        if self._is_first_epoch():
            refuse_foreign_tokens(self._network, waiting.batch)  # still on the CPU, where looking costs nothing
        with seeded(waiting.seed):
            return self._engine.to_device(waiting.batch)

    def _is_first_epoch(self) -> bool:
        # After one epoch every retain example has been seen: checking again would find nothing new.
        return self._engine.trainer is None or self._engine.trainer.current_epoch == 0


def forget_stream(trainer: pl.Trainer, loader: Iterable[Any], order: RowsByEpoch | None, seed: int) -> ForgetStream:
    """The forget data from its beginning, this process's share of them."""
    rank, world_size = data_share(trainer)
    return ForgetStream(loader, order=order, seed=seed, rank=rank, world_size=world_size)
