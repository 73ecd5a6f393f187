from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.attacks import Attack
from lightning_unlearn.audits import Audit
from lightning_unlearn.checks._attackers_data import AttackersData
from lightning_unlearn.checks._audits_under_attack import AuditsUnderAttack, Examined, unwatched
from lightning_unlearn.checks._control import OtherModel, find_control
from lightning_unlearn.checks._costs import ledger
from lightning_unlearn.checks._failures import recorder
from lightning_unlearn.checks._intact import Intact
from lightning_unlearn.checks._looks import Look, floats, weights_on_every_rank
from lightning_unlearn.checks._original_weights import OriginalWeights
from lightning_unlearn.checks._probes import (
    about_probes,
    find_probes,
    measuring_readout,
    warn_of_other_probes,
)
from lightning_unlearn.checks._records import at_most_known, merged, without_old_scores
from lightning_unlearn.checks._refusals import refuse_same_names, refuse_undefined
from lightning_unlearn.checks._shown_control import refuse_missing_control, show_control
from lightning_unlearn.checks._worst import WORST, worst_recovery
from lightning_unlearn.data import DataSource, Probe, load_probe
from lightning_unlearn.engine import callbacks_of
from lightning_unlearn.models import swapped_weights
from lightning_unlearn.observation import Change, Cost, Failure, Observation, Subject
from lightning_unlearn.readouts import Readout
from lightning_unlearn.runtime import checksum, own_rank, uninterrupted


class ObservingCallback(pl.Callback):
    """Observes a network without and under attack, and keeps what was observed, also in checkpoints.

    It does not say when: that is :class:`RecoveryCheck`, where the arguments are explained.

    Attributes:
        watch: Is told the attack and the point that is looked at next.
    """

    watch: Callable[[str, float], None] = staticmethod(unwatched)

    def __init__(
        self,
        attacks: Mapping[str, Attack],
        audits: Sequence[Audit],
        control: str | None,
        readout: Readout | None,
        probes: Mapping[str, DataSource],
        attack_data: DataSource | Mapping[str, DataSource] | None,
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
        self.costs: list[Cost] = []
        self.changes: list[Change] = []
        self.weights: dict[str, list[int]] = {}
        self.restored: bool | None = None
        self.control_source: str | None = None
        self._last = Look()
        self._original_weights = OriginalWeights()
        self._about: dict[str, dict[str, Any]] = {}
        self._opened: dict[str, Probe] | None = None
        self._overlaps: dict[tuple[Any, ...], dict[str, Any]] = {}
        self._asked: dict[Any, Any] = {}
        self._control_is_shown = False

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

    @property
    def last_look(self) -> Look:
        """The check that was made last."""
        return self._last

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
            "costs": [asdict(cost) for cost in self.costs],
            "changes": [asdict(change) for change in self.changes],
            "weights": dict(self.weights),
            "original_weights": self._original_weights.state_dict(),
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
        self.costs = [Cost(**cost) for cost in state_dict["costs"]]
        self.changes = [Change(**change) for change in state_dict["changes"]]
        self.weights = dict(state_dict["weights"])
        self._original_weights.load_state_dict(state_dict["original_weights"])
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
        weights = weights_on_every_rank(pl_module)
        before = weights[own_rank()]
        values: dict[str, Tensor] = {}
        self._show_control(examined)
        record, spend = recorder(self.failures, subject, step, epoch), ledger(self.costs, subject)
        self._weigh(pl_module, subject, weights)
        try:
            for _, observations in AuditsUnderAttack(self.attacks, self.audits, record, spend, self.watch)(examined):
                values |= at_most_known(observations)
                made = [replace(o, subject=subject, step=step, epoch=epoch) for o in observations]
                refuse_undefined(made)
                self.observations = merged(self.observations, made)
            self._observe_control(examined, step, epoch)
            if (worst := worst_recovery(self.observations, step)) is not None:
                values[WORST] = torch.tensor(worst, dtype=torch.float32)
        finally:
            # One failure in a run is never forgotten.
            self.restored = self.restored is not False and checksum(pl_module) == before
        self.observations = without_old_scores(self.observations, step)
        self._last = Look(step, weights, floats(values))
        return values

    def _weigh(self, pl_module: pl.LightningModule, subject: Subject, weights: list[int]) -> None:
        """Which weights these are, and how far they are from the original's. Collective."""
        self.weights[subject] = weights
        if subject == "original":
            self._original_weights.see(pl_module)
        self.changes = self._original_weights.changes(pl_module)

    def _find_control(self, trainer: pl.Trainer) -> OtherModel | None:
        return find_control(trainer, self.control)

    def _show_control(self, examined: Examined) -> None:
        """Show it to audits that compare with it, once in a run: they need it before they observe anything."""
        comparing = [audit for audit in self.audits if audit.needs_control]
        if comparing and not self._control_is_shown:
            control = self._find_control(examined.trainer)
            refuse_missing_control(control, comparing)
            assert control is not None
            show_control(control, comparing, examined)
            self._control_is_shown = True

    def _observe_control(self, examined: Examined, step: int, epoch: int) -> None:
        """Observe the control, once in a run, interruptions included: it does not change, and neither would the results."""
        control = self._find_control(examined.trainer)
        if control is None or any(o.subject == "control" for o in self.observations):
            return
        weights = control.load(examined.network)
        # `unchanged` outside: it sees the weights before the swap and after the swap back.
        record, spend = recorder(self.failures, "control", step, epoch), ledger(self.costs, "control")
        under_attack = AuditsUnderAttack(self.attacks, self.audits, record, spend, self.watch)
        with (
            uninterrupted(),
            Intact()(examined.module, "The control"),
            swapped_weights(examined.network, weights),
        ):
            self.weights["control"] = weights_on_every_rank(examined.module)
            observations = [o for _, made in under_attack(examined) for o in made]
        made = [replace(o, subject="control", step=step, epoch=epoch) for o in observations]
        self.observations = merged(self.observations, made)
        self.control_source = control.source

    def _examined(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Examined:
        readout = measuring_readout(trainer, pl_module, self.readout, self.probes)
        network, probes = readout.find_network(pl_module), self._open(trainer, readout)
        data = AttackersData(self.attack_data, self._overlaps)
        data.refuse_facts(self.attacks, probes.get("forget"))
        return Examined(trainer, pl_module, network, readout, probes, data, self._asked)

    def _open(self, trainer: pl.Trainer, readout: Readout) -> dict[str, Probe]:
        # Opened once: every check of a run asks the same questions, and their hash is in the report.
        if self._opened is None:
            rank, world_size = trainer.global_rank, trainer.world_size
            loaders = find_probes(trainer, readout, self.probes)
            refuse_same_names(self.audits, loaders)
            opened = {s: load_probe(loader, readout, rank, world_size) for s, loader in loaders.items()}
            for audit in self.audits:
                audit.refuse(opened)
            self._opened = opened
            before, self._about = self._about, about_probes(self._opened)
            warn_of_other_probes(before, self._about)
        return self._opened

    def _when(self, trainer: pl.Trainer) -> tuple[int, int]:
        """Step of the model that is checked, and the epoch in which it was taken."""
        # Not the trainer's own counts: outside a fit they are of the last fit, not of the checkpoint; and its epoch is one
        # more when the last one has ended, but not if a resumed fit has no step left.
        return self._reached["global_step"], self._reached["epoch"]
