from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any

import lightning.pytorch as pl
from torch import nn
from typing_extensions import override

from lightning_unlearn.checks._looks import weights_on_every_rank
from lightning_unlearn.checks._probes import measuring_readout
from lightning_unlearn.data import DataSource, loader_of
from lightning_unlearn.disruption import Disruption, KnownOriginal, Snapshot, neutral_batches, spare_neutral
from lightning_unlearn.engine import GradientEngine, isolated, own_share, with_all_ranks
from lightning_unlearn.readouts import Readout


class DivergenceCallback(pl.Callback):
    """Measures how far the network has moved from its original, and keeps what was measured, also in checkpoints.

    It does not say when, nor what follows: that is :class:`DisruptionBudget`, where the arguments are explained.

    Args:
        keeps_copy: Whether the last weights within the budget are kept.
    """

    def __init__(self, neutral: DataSource | None, batches: int, readout: Readout | None, *, keeps_copy: bool) -> None:
        self.neutral, self.batches, self.readout, self.keeps_copy = neutral, batches, readout, keeps_copy
        self._start_anew()

    def _start_anew(self) -> None:
        self.history: list[tuple[int, float]] = []
        self.spent = 0.0
        self.exceeded_at: int | None = None
        self._restored: dict[str, Any] = {}
        self._is_restored = False
        self._origin: dict[str, Any] | None = None  # by which a resumed fit knows the original
        self._disruption: Disruption | None = None
        self._snapshot: Snapshot | None = None
        self._is_current = False  # whether the weights are those of the snapshot
        self._measured_weights: list[int] = []  # a hash, by rank, where there is no snapshot to compare with

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Watch for a checkpoint: what it replaces may be the original."""
        self._start_anew()
        self._end_watch()
        self._known = KnownOriginal(trainer, pl_module)
        self._loader = None if self.neutral is None else loader_of(self.neutral, "neutral", trainer)

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The last moment before a strategy that shards restores a checkpoint."""
        self._known.start()

    def see_original(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep what the original predicts, unless that was done: before the first step, or before an edit."""
        if self._disruption is None:
            self._disruption = self._measured(trainer, pl_module)
        elif not self._is_restored:
            return
        if self.keeps_copy:
            self._snapshot = Snapshot(pl_module)
            self._start_snapshot(self._snapshot, trainer, pl_module)
        self._restored, self._is_restored = {}, False

    @override
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave no hook on the module, and keep no copy of it."""
        if stage == "fit":
            self._end_watch()
            self._disruption, self._snapshot = None, None

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave no hook on the module. The copy is left: others may save a checkpoint now."""
        self._end_watch()

    @override
    def state_dict(self) -> dict[str, Any]:
        """What was measured, a hash of the original, and the copy, if the weights have moved on since. Collective."""
        if self._origin is None:
            return self._restored
        kept = {} if self._snapshot is None or self._is_current else self._snapshot.state_dict()
        return {
            "history": list(self.history),
            "spent": self.spent,
            "exceeded_at": self.exceeded_at,
            "is_within": self._is_current,
            "origin": self._origin,
            "snapshot": with_all_ranks({"kept": kept}, self._engine),
        }

    @override
    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go back to a checkpoint, before the fit or, after a search by ``Tuner``, in its middle. Our state comes next."""
        self._restored, self._is_restored = {}, True
        self.history, self.spent, self.exceeded_at = [], 0.0, None

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until the first batch."""
        self._restored = state_dict
        self.history = [(int(step), float(kl)) for step, kl in state_dict.get("history", ())]
        self.spent, self.exceeded_at = state_dict.get("spent", 0.0), state_dict.get("exceeded_at")

    def _end_watch(self) -> None:
        if hasattr(self, "_known"):
            self._known.end_watch()

    def _measured(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Disruption:
        self._readout = measuring_readout(trainer, pl_module, self.readout)
        self._engine = GradientEngine(pl_module, trainer)
        loader = spare_neutral(trainer, self.batches) if self._loader is None else self._loader
        with isolated(trainer, pl_module):
            return self._of_original(self._readout.find_network(pl_module), loader)

    def _of_original(self, network: nn.Module, loader: Iterable[Any]) -> Disruption:
        engine = self._engine
        batches = neutral_batches(loader, engine, most=self.batches, rank=engine.rank, world_size=engine.world_size)
        disruption = Disruption(batches, self._readout, engine)
        self._origin = self._restored.get("origin")
        if self._origin is None:
            disruption.see_original(network)
            disruption.refuse_unlike(network)
            self._origin = self._known.state_dict()
        else:
            disruption.see_original(network, self._known.resumed(self._origin))
        return disruption

    @abstractmethod
    def _judge_restored(self, kl: float) -> None:
        """Refuse a checkpoint whose weights are above the budget, and which holds no others."""

    def _start_snapshot(self, snapshot: Snapshot, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        saved = self._restored.get("snapshot", {})
        kept = own_share(saved, self._engine, "The copy of `DisruptionBudget`").get("kept", {}) if saved else {}
        if kept:
            return snapshot.load_state_dict(kept)
        if self._restored:  # the weights in the checkpoint may be the last ones within the budget, if there was a copy
            is_within = self._restored.get("is_within", False)
            self._judge_restored(self.spent if is_within else self._measure(trainer, pl_module))
        snapshot.take()

    @property
    def _last_step(self) -> int:
        return self.history[-1][0] if self.history else 0

    def _measure(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> float:
        assert self._disruption is not None
        with isolated(trainer, pl_module):
            self._measured_weights = [] if self.keeps_copy else weights_on_every_rank(pl_module)
            kl = self._disruption(self._readout.find_network(pl_module))
        self.history.append((trainer.global_step, kl))
        # Past the module: what it logs in a step reaches a logger only in every n-th.
        for logger in trainer.loggers:
            logger.log_metrics({"budget/kl": kl}, step=trainer.global_step)
        return kl
