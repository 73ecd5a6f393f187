from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeGuard

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor, nn

from lightning_unlearn.attacks import Attack
from lightning_unlearn.audits import Audit, ScoringAudit, SharedScores
from lightning_unlearn.checks._asked import Asked, asked_by, refuse_none_counted
from lightning_unlearn.checks._attackers_data import AttackersData
from lightning_unlearn.checks._costs import Meter, tokens_in
from lightning_unlearn.checks._failures import about, failed
from lightning_unlearn.checks._intact import Intact
from lightning_unlearn.checks._judged import judged
from lightning_unlearn.checks._refusals import refuse_probes
from lightning_unlearn.data import Probe
from lightning_unlearn.engine import GradientEngine, isolated
from lightning_unlearn.objectives import CrossEntropy
from lightning_unlearn.observation import NOT_ATTACKED, Cost, Failure, Observation
from lightning_unlearn.readouts import Readout, packing_decided_apart, read_for_a_loss
from lightning_unlearn.runtime import Agreement, Ended, Misfit, interruptible, termination_held, uninterrupted


def unwatched(attack: str, point: float) -> None:
    """Nobody asked what is looked at next."""


@dataclass(frozen=True)
class Examined:
    """A network inside a fit, with all that attacks and audits need.

    Args:
        trainer: The trainer of the fit.
        module: The module that holds the network. It must be the same afterwards.
        network: The network to attack and audit.
        readout: How to run it.
        probes: Questions for the audits, by split.
        attackers_data: What attackers train on.
        asked: What attacks by prompt have asked so far: all looks, and the control, are asked in the same words.
    """

    trainer: pl.Trainer
    module: pl.LightningModule
    network: nn.Module
    readout: Readout
    probes: Mapping[str, Probe]
    attackers_data: AttackersData
    asked: dict[Any, Asked] = field(default_factory=dict)

    def __post_init__(self) -> None:
        refuse_probes(self.probes, self.network)

    @property
    def engine(self) -> GradientEngine:
        """Runs the network under the strategy of the fit."""
        return GradientEngine(self.module, self.trainer)

    def batches_for(self, attack: Attack) -> Iterable[Any]:
        """What an attack is to be given, on the device."""
        return self.attackers_data.batches(self.trainer, self.engine, attack, self.probes.get("forget"))

    def overlap_of(self, attack: Attack) -> dict[str, Any]:
        """How much of what an attack is judged by stands in its data."""
        return self.attackers_data.overlap(self.trainer, self.readout, attack, self.probes.get("forget"))

    def asked_by(self, attack: Attack, point: float) -> Asked:
        """The probes in the words of an attack, found and encoded once."""
        key = id(attack), point
        if key not in self.asked:
            self.asked[key] = asked_by(attack, self.probes, point)
        return self.asked[key]

    def loss(self, batch: Any, meter: Meter | None = None) -> Tensor:
        """What an attacker minimises on a batch, which ``meter`` is told of."""
        self.heed_sigterm()
        with read_for_a_loss():
            prediction = self.readout.for_mean()(self.network, batch)
            loss: Tensor = CrossEntropy()(prediction)
        if meter is not None:
            meter.count(prediction.batch_size, tokens_in(batch, self.readout))
        return loss

    def heed_sigterm(self) -> None:
        """End now if the process was asked to end. Lightning looks for that between batches only, and a check may take long.

        Several processes have to end together, and do so when an attack, or an audit without one, is over.
        """
        if self.trainer.world_size == 1 and self.trainer.received_sigterm:
            raise SIGTERMException


@dataclass
class _Progress:
    """How far an attack has come, and what was observed until then."""

    observations: list[Observation] = field(default_factory=list)
    seen: list[list[Observation]] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    point: float | None = None
    audit: str = ""
    meter: Meter = field(default_factory=Meter)


@dataclass(frozen=True)
class AuditsUnderAttack:
    """Runs each audit without an attack, and at each point of each attack. The network stays as it was, bit for bit.

    It does not know whether the network is the model of the fit or the control: both are treated alike.

    Args:
        attacks: The attacks, by the name in logs and reports.
        audits: The audits.
        record: Is told of each attack and each audit that fails.
        spend: Is told what each attack cost, and what the audits cost without one.
        watch: Is told the attack and the point that is looked at next.
    """

    attacks: Mapping[str, Attack]
    audits: Sequence[Audit]
    record: Callable[[Failure], None]
    spend: Callable[[Cost], None] = lambda cost: None
    watch: Callable[[str, float], None] = unwatched
    _intact: Intact = field(default_factory=Intact)

    def __call__(self, examined: Examined, done: Collection[str] = ()) -> Iterator[tuple[str, list[Observation]]]:
        """The observations without an attack, then those of each attack, by its name. Collective: every rank must call it.

        What is ``done`` already (attacks, or :data:`NOT_ATTACKED`) is not looked at again. An attack that failed gives the
        observations it made before. An audit that failed without an attack is left out under attacks. What ends the fit
        (Ctrl-C, SIGTERM, ranks that disagree) is raised after what was observed until then.
        """
        looks = self._looks(examined, done)
        with termination_held():
            # Not around the `yield`: the caller's own reading is not part of the check.
            while (looked := _next_apart(looks)) is not None:
                yield looked

    def _looks(self, examined: Examined, done: Collection[str]) -> Iterator[tuple[str, list[Observation]]]:
        alone: list[Observation] = []
        working: list[Audit] = list(self.audits) if NOT_ATTACKED in done else []
        if NOT_ATTACKED not in done:
            meter = Meter()
            try:
                self._alone(examined, alone, working)
            except BaseException:
                yield NOT_ATTACKED, alone
                raise
            self.spend(meter.read(NOT_ATTACKED))
            yield NOT_ATTACKED, alone
        attacked = [audit for audit in working if audit.under_attack]
        if self.audits and not attacked:
            return  # there is nobody left who could tell what an attack brings back
        for name, attack in ((name, attack) for name, attack in self.attacks.items() if name not in done):
            progress = _Progress()
            try:
                agreement = self._under(name, attack, attacked, examined, progress)
            except BaseException as error:
                self._record(Ended(type(error).__name__, str(error)), progress, about(name, attack))
                yield name, progress.observations
                raise
            self.spend(progress.meter.read(name))
            yield name, progress.observations
            _end_if_asked(agreement)

    def _alone(self, examined: Examined, observations: list[Observation], working: list[Audit]) -> None:
        self.watch(NOT_ATTACKED, 0)
        with uninterrupted(), self._intact(examined.module, "Audits"), isolated(examined.trainer, examined.module):
            shared = _shared(self.audits, examined)
            for audit in self.audits:
                kind = type(audit).__name__
                with Agreement(f"Audit `{kind}`") as agreement:
                    made, error = _tried(audit, examined, shared)
                    with interruptible():  # it may wait for other ranks
                        ended = agreement.settle(error, "")
                _end_if_asked(agreement)
                if isinstance(error, Misfit):
                    raise error
                if ended is None:
                    observations += made
                    working.append(audit)
                    continue
                rank_zero_warn(f"Audit `{kind}` failed, and the fit goes on without it: {ended}")
                self.record(failed(ended, audit=kind))

    def _under(
        self, name: str, attack: Attack, audits: Sequence[Audit], examined: Examined, progress: _Progress
    ) -> Agreement:
        with Agreement(f"Attack `{name}`") as agreement:
            # Each under its own `isolated`: the second attack starts from the same buffers and random numbers as the first.
            # The checksum is computed outside of `isolated`, which restores buffers, so that it covers these, too.
            who = f"Attack `{name}`"
            with uninterrupted(), self._intact(examined.module, who), isolated(examined.trainer, examined.module):
                error = self._attacked(name, attack, audits, examined, progress)
            ended = agreement.settle(error, f"{progress.point} {progress.audit}")
        # Any error of an attack: the fit is worth more than one measurement. Restoring weights is checked by `unchanged`.
        if ended is not None:
            rank_zero_warn(f"Attack `{name}` failed, and the fit goes on without it: {ended}")
            self._record(ended, progress, about(name, attack))
        return agreement

    def _attacked(
        self, name: str, attack: Attack, audits: Sequence[Audit], examined: Examined, progress: _Progress
    ) -> Exception | None:
        """Fill in ``progress``. Returns what it failed of."""
        network, engine = examined.network, examined.engine
        try:
            with interruptible():
                batches = examined.batches_for(attack)
                described = about(name, attack, attack.share_reached(network), examined.overlap_of(attack))
            loss = partial(examined.loss, meter=progress.meter)
            with attack(network, batches=batches, loss=loss, engine=engine) as points, interruptible():
                for point in points:
                    progress.point = point
                    self.watch(name, point)
                    made = self._at(attack, point, audits, examined, progress)
                    config = {**described["attack_config"], **attack.about(point), **progress.asked[-1].about}
                    told = {**described, "attack_config": config}
                    counted = judged(made, attack, examined.probes)
                    progress.observations += [replace(o, point=point, **told) for o in counted]
                refuse_none_counted(name, progress.asked)
        except Exception as error:
            return error
        return None

    def _at(
        self, attack: Attack, point: float, audits: Sequence[Audit], examined: Examined, progress: _Progress
    ) -> list[Observation]:
        """What is reported at one point of an attack."""
        asked = examined.asked_by(attack, point)
        there = replace(examined, probes=asked.probes)
        shared = _shared(audits, there)
        made = [o for audit in audits for o in self._audited(audit, there, shared, progress)]
        progress.asked.append(asked)
        progress.seen.append(asked.only_counted(made))
        return attack.conclude(progress.seen)

    def _audited(
        self, audit: Audit, examined: Examined, shared: SharedScores, progress: _Progress
    ) -> list[Observation]:
        progress.audit = type(audit).__name__  # so that an error says where it happened
        made = _observed(audit, examined, shared)
        progress.audit = ""
        return made

    def _record(self, ended: Ended, progress: _Progress, attack: Mapping[str, Any]) -> None:
        self.record(failed(ended, **attack, point=progress.point, audit=progress.audit))


def _next_apart(looks: Iterator[tuple[str, list[Observation]]]) -> tuple[str, list[Observation]] | None:
    with packing_decided_apart():
        return next(looks, None)


def _end_if_asked(agreement: Agreement) -> None:
    if agreement.asked_to_end:
        raise SIGTERMException


def _tried(audit: Audit, examined: Examined, shared: SharedScores) -> tuple[list[Observation], Exception | None]:
    try:
        with interruptible():
            return _observed(audit, examined, shared), None
    except Exception as error:
        return [], error


def _shares(audit: Audit) -> TypeGuard[ScoringAudit]:
    """Whether ``audit`` needs no more than scores. A class with a way of its own to look has it called."""
    inherited: Any = ScoringAudit.__call__
    return isinstance(audit, ScoringAudit) and type(audit).__call__ is inherited


def _shared(audits: Sequence[Audit], examined: Examined) -> SharedScores:
    """One pass over the data for all audits that need no other."""
    scoring = [audit for audit in audits if _shares(audit)]
    return SharedScores(scoring, examined.network, examined.readout, examined.probes, examined.engine)


def _observed(audit: Audit, examined: Examined, shared: SharedScores) -> list[Observation]:
    examined.heed_sigterm()
    if _shares(audit):
        made = shared.conclusion_of(audit)
    else:
        made = audit(examined.network, readout=examined.readout, probes=examined.probes, engine=examined.engine)
    return [replace(observation, attack=NOT_ATTACKED) for observation in made]
