from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import lightning.pytorch as pl
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.attacks import Attack
from lightning_unlearn.audits import Audit
from lightning_unlearn.checks._audits_under_attack import AuditsUnderAttack, Examined, unchanged
from lightning_unlearn.checks._control import Control, find_control
from lightning_unlearn.checks._failures import recorder
from lightning_unlearn.checks._looks import Look, floats, weights_on_every_rank
from lightning_unlearn.checks._probes import (
    about_probes,
    find_attack_data,
    find_probes,
    measuring_readout,
    warn_of_other_probes,
)
from lightning_unlearn.checks._records import at_most_known, merged, without_old_scores
from lightning_unlearn.checks._refusals import refuse_same_names, refuse_undefined
from lightning_unlearn.data import DataSource, Probe, in_order, load_probe
from lightning_unlearn.engine import GradientEngine, callbacks_of
from lightning_unlearn.models import swapped_weights
from lightning_unlearn.observation import Failure, Observation, Subject
from lightning_unlearn.readouts import Readout
from lightning_unlearn.runtime import checksum, uninterrupted


class ObservingCallback(pl.Callback):
    """Observes a network without and under attack, and keeps what was observed, also in checkpoints.

    It does not say when: that is :class:`RecoveryCheck`, where the arguments are explained.
    """

    def __init__(
        self,
        attacks: Mapping[str, Attack],
        audits: Sequence[Audit],
        control: str | None,
        readout: Readout | None,
        probes: Mapping[str, DataSource],
        attack_data: DataSource | None,
    ) -> None:
        self.attacks, self.audits = dict(attacks), list(audits)
        self.control = control
        self.readout = readout
        self.probes, self.attack_data = dict(probes), attack_data
        self._reached = {"global_step": 0, "epoch": 0}
        self._forget_observations()

    def _forget_observations(self) -> None:
        self.observations: list[Observation] = []
        self.failures: list[Failure] = []
        self.restored: bool | None = None
        self.control_source: str | None = None
        self._last = Look()
        self._about: dict[str, dict[str, Any]] = {}
        self._opened: dict[str, Probe] | None = None
        self._asked: dict[Any, Any] = {}

    @property
    @override
    def state_key(self) -> str:
        """Two checks in one trainer have different attacks, and different states."""
        return self._generate_state_key(attacks=sorted(map(str, self.attacks)))

    def check(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Tensor]:
        """Observe the model without and under each attack, and the control, if that was not done before.

        Collective: every rank must call it.

        Returns:
            Values to log, by key. Every observation is kept in :attr:`observations`. An older one of the same subject at
            the same step is replaced.
        """
        return self._check(trainer, pl_module, "unlearned")

    def about_data(self) -> dict[str, dict[str, Any]]:
        """Size, entities and content hash of each probe, for the report; also of those that an interrupted run opened."""
        return dict(self._about)

    def definitions(self) -> dict[str, str]:
        """What each metric of the audits means, for the report."""
        return {name: words for audit in self.audits for name, words in audit.definitions().items()}

    @override
    def state_dict(self) -> dict[str, Any]:
        """Every observation so far and what the report says of them, as plain values."""
        return {
            "observations": [asdict(observation) for observation in self.observations],
            "failures": [asdict(failure) for failure in self.failures],
            "last": asdict(self._last),
            "restored": self.restored,
            "data": self.about_data(),
            "control_source": self.control_source,
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the observations of the interrupted run, also those of the control, which is not checked again."""
        self.observations = [Observation(**observation) for observation in state_dict["observations"]]
        self.failures = [Failure(**failure) for failure in state_dict["failures"]]
        self._last, self.restored = Look(**state_dict["last"]), state_dict["restored"]
        self._about, self.control_source = dict(state_dict["data"]), state_dict["control_source"]

    @override
    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Remember step and epoch of the checkpoint."""
        self._reached = {name: int(checkpoint[name]) for name in ("global_step", "epoch")}
        # With other attacks the state has another name. It still holds the original, which is gone.
        states = [v for k, v in checkpoint.get("callbacks", {}).items() if k.startswith(type(self).__qualname__)]
        if len(states) == 1 and len(callbacks_of(trainer, type(self))) == 1:
            self.load_state_dict(states[0])

    def _check(self, trainer: pl.Trainer, pl_module: pl.LightningModule, subject: Subject) -> dict[str, Tensor]:
        examined = self._examined(trainer, pl_module)
        step, epoch = self._when(trainer)
        weights, before = weights_on_every_rank(pl_module), checksum(pl_module)
        values: dict[str, Tensor] = {}
        record = recorder(self.failures, subject, step, epoch)
        try:
            for observations in AuditsUnderAttack(self.attacks, self.audits, record)(examined):
                values |= at_most_known(observations)
                made = [replace(o, subject=subject, step=step, epoch=epoch) for o in observations]
                refuse_undefined(made)
                self.observations = merged(self.observations, made)
            self._observe_control(examined, step, epoch)
        finally:
            # One failure in a run is never forgotten.
            self.restored = self.restored is not False and checksum(pl_module) == before
        self.observations = without_old_scores(self.observations, step)
        self._last = Look(step, weights, floats(values))
        return values

    def _observe_control(self, examined: Examined, step: int, epoch: int) -> None:
        """Observe the control, once in a run, interruptions included: it does not change, and neither would the results."""
        control: Control | None = find_control(examined.trainer, self.control)
        if control is None or any(o.subject == "control" for o in self.observations):
            return
        weights = control.load(examined.network)
        # `unchanged` outside: it sees the weights before the swap and after the swap back.
        record = recorder(self.failures, "control", step, epoch)
        with (
            uninterrupted(),
            unchanged(examined.module, "The control"),
            swapped_weights(examined.network, weights),
        ):
            observations = [o for each in AuditsUnderAttack(self.attacks, self.audits, record)(examined) for o in each]
        made = [replace(o, subject="control", step=step, epoch=epoch) for o in observations]
        self.observations = merged(self.observations, made)
        self.control_source = control.source

    def _examined(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Examined:
        readout = measuring_readout(trainer, pl_module, self.readout, self.probes)
        engine = GradientEngine(pl_module, trainer)

        def attack_batches() -> list[Any]:
            return [engine.to_device(batch) for batch in in_order(find_attack_data(trainer, self.attack_data))]

        network, probes = readout.find_network(pl_module), self._open(trainer, readout)
        return Examined(trainer, pl_module, network, readout, probes, attack_batches, self._asked)

    def _open(self, trainer: pl.Trainer, readout: Readout) -> dict[str, Probe]:
        # Opened once: every check of a run asks the same questions, and their hash is in the report.
        if self._opened is None:
            rank, world_size = trainer.global_rank, trainer.world_size
            loaders = find_probes(trainer, readout, self.probes)
            refuse_same_names(self.audits, loaders)
            self._opened = {s: load_probe(loader, readout, rank, world_size) for s, loader in loaders.items()}
            before, self._about = self._about, about_probes(self._opened)
            warn_of_other_probes(before, self._about)
        return self._opened

    def _when(self, trainer: pl.Trainer) -> tuple[int, int]:
        """Step of the model that is checked, and the epoch in which it was taken."""
        # Not the trainer's own counts: outside a fit they are of the last fit, not of the checkpoint; and its epoch is one
        # more when the last one has ended, but not if a resumed fit has no step left.
        return self._reached["global_step"], self._reached["epoch"]
