from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from typing_extensions import override

from lightning_unlearn.attacks import Attack, AttackGrid, Relearn
from lightning_unlearn.auditing._progress import AuditProgress
from lightning_unlearn.auditing._progress_file import ProgressFile
from lightning_unlearn.audits import Audit
from lightning_unlearn.checks import (
    AuditsUnderAttack,
    Examined,
    Intact,
    OtherModel,
    RecoveryCheck,
    merged,
    weights_on_every_rank,
)
from lightning_unlearn.models import swapped_weights
from lightning_unlearn.observation import NOT_ATTACKED, Cost, Failure, Observation, Subject
from lightning_unlearn.runtime import checksum, in_words, uninterrupted

_Look = tuple[str, list[Observation]]


class StandaloneCheck(RecoveryCheck):
    """Observes finished models: the original, the control, and then the audited one. Goes on where it was interrupted.

    The original is observed without attacks, the other two under each. What was observed is written to ``store`` after
    each attack; at the start, what it holds of the same weights, attack, audits and data is not done again.

    Args:
        attacks: As in :class:`RecoveryCheck`.
        audits: As in :class:`RecoveryCheck`.
        others: The weights of the original and of the control, as far as there are any.
        store: Where the observations are kept meanwhile.
        progress: Shows how far it is.
        settings: Of the run: what was observed under others is done again.
        **data: ``probes``, ``attack_data`` and ``readout``, as in :class:`RecoveryCheck`.
    """

    def __init__(
        self,
        attacks: dict[str, Attack | AttackGrid],
        audits: list[Audit],
        others: Mapping[Subject, OtherModel],
        store: Path,
        progress: AuditProgress,
        settings: str = "",
        **data: Any,
    ) -> None:
        super().__init__(attacks, audits, every_n_epochs=0, **data)
        self.others, self.store, self.progress, self.settings = dict(others), store, progress, settings
        self._is_foretold = False

    @override
    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Observe every model."""
        examined = self._examined(trainer, pl_module)
        questions = {split: (probe.content_hash, probe.entities) for split, probe in examined.probes.items()}
        asked = in_words(self.audits), questions, in_words(examined.readout)
        file = ProgressFile(self.store, repr((self.settings, *asked)))
        before = checksum(pl_module)
        self._show_control(examined)
        try:
            for subject, attacks in self.plan().items():
                with self._as(subject, examined):
                    self._observe(subject, attacks, examined, file)
        finally:
            self.restored = checksum(pl_module) == before

    def _foretold(self, looks: Iterable[_Look], examined: Examined, file: ProgressFile) -> Iterator[_Look]:
        """The looks. How long all will take is said as soon as the first of them is over, or that of an earlier run."""
        self._forecast(examined, file)
        for look in looks:
            self._forecast(examined, file)
            yield look

    def _forecast(self, examined: Examined, file: ProgressFile) -> None:
        """Say once how long it will take, from the look that was made, and one training step of an attacker."""
        made = {cost.subject: cost.per_look for cost in self.costs if cost.attack == NOT_ATTACKED}
        if self._is_foretold or not made:
            return
        self._is_foretold = True
        done = {subject: file.done(subject, attacks) for subject, attacks in self.plan().items()}
        looks = [subject for subject, names in done.items() if NOT_ATTACKED not in names and subject not in made]
        attacks = [a for s, each in self.plan().items() for name, a in each.items() if name not in done[s]]
        if not looks and not attacks:
            return
        whole = next(iter(made.values()))
        repeated = [audit for audit in self.audits if audit.under_attack]
        look = whole if repeated == self.audits else _seconds(AuditsUnderAttack({}, repeated, _ignored)(examined))
        trains = any(attack.planned()[1] for attack in attacks)
        rehearsal = {"rehearsal": Relearn(steps=1)} if trains else {}
        step = _seconds(AuditsUnderAttack(rehearsal, [], _ignored)(examined))
        self.progress.plan(attacks, len(looks), whole=whole, look=look, step=step)

    @override
    def _find_control(self, trainer: pl.Trainer) -> OtherModel | None:
        return self.others.get("control")

    def plan(self) -> dict[Subject, dict[str, Attack]]:
        """Which attacks are made on which model, in this order."""
        plan: dict[Subject, dict[str, Attack]] = {}
        if "original" in self.others:
            plan["original"] = {}  # nothing was taken from it that an attack could bring back
        if "control" in self.others:
            plan["control"] = self.attacks
        return {**plan, "unlearned": self.attacks}

    @contextmanager
    def _as(self, subject: Subject, examined: Examined) -> Iterator[None]:
        """Put the weights of ``subject`` into the network."""
        if (other := self.others.get(subject)) is None:
            yield
            return
        weights = other.load(examined.network)
        with uninterrupted(), Intact()(examined.module, other.source), swapped_weights(examined.network, weights):
            if subject == "original":
                self._original.before_first_step(examined.trainer, examined.module)
            if subject == "control":
                self.control_source = other.source
            yield

    def _observe(self, subject: Subject, attacks: dict[str, Attack], examined: Examined, file: ProgressFile) -> None:
        part = file.part(subject, checksum(examined.module), attacks)
        self._weigh(examined.module, subject, weights_on_every_rank(examined.module))
        self._add(part.observations)
        self.failures += part.failures
        self.costs += part.costs

        def record(failure: Failure) -> None:
            part.failures.append(replace(failure, subject=subject))
            self.failures.append(part.failures[-1])

        def spend(cost: Cost) -> None:
            part.costs.append(replace(cost, subject=subject))
            self.costs.append(part.costs[-1])

        def watch(name: str, point: float) -> None:
            self.progress.at(subject, name, attacks.get(name), point)

        looks = AuditsUnderAttack(attacks, self.audits, record, spend, watch)(examined, done=list(part.done))
        for name, observations in _ended(self._foretold(looks, examined, file), self._add, subject):
            part.observations += observations
            part.finish(name)
            if examined.trainer.is_global_zero:
                file.write()

    def _add(self, observations: list[Observation]) -> None:
        self.observations = merged(self.observations, observations)


def _seconds(looks: Iterable[Any]) -> float:
    started = time.monotonic()
    for _ in looks:
        pass
    return time.monotonic() - started


def _ignored(failure: Failure) -> None:
    """A failure of the rehearsal: it will be seen, and kept, when it counts."""


def _ended(looks: Iterable[_Look], add: Callable[[list[Observation]], None], subject: Subject) -> Iterator[_Look]:
    """Each look, once it is known that it came to its end: what ends the audit is raised after the look it has cut short.

    The report gets all that was observed, ``add``, also of one that was cut short.
    """
    last: _Look | None = None
    for name, observations in looks:
        if last is not None:
            yield last
        last = name, [replace(o, subject=subject) for o in observations]
        add(last[1])
    if last is not None:
        yield last
