"""From observations to levels, gates and recoveries."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import get_args

from lightning_unlearn.observation import Observation, Subject
from lightning_unlearn.report.analysis._bootstrap import Bootstrap
from lightning_unlearn.report.analysis._cases import Cases
from lightning_unlearn.report.analysis._discoveries import with_q_values
from lightning_unlearn.report.analysis._gates import (
    gate_baseline,
    gate_changed,
    gate_complete,
    gate_control,
    gate_gap,
    gate_intact,
    gate_reach,
    gate_restored,
    gate_specificity,
    gate_utility,
)
from lightning_unlearn.report.analysis._membership import membership_gates
from lightning_unlearn.report.analysis._observation_index import SPECIFICITY, ObservationIndex
from lightning_unlearn.report.analysis._utility import price_of
from lightning_unlearn.report.analysis._worst import mark_worst
from lightning_unlearn.report.schema import DEPLOYMENTS, Gate, Interval, Level, Recovery


@dataclass(frozen=True)
class Assessment:
    """Levels, gates and recoveries computed from the observations.

    Args:
        index: The observations.
        utility: The metric that says, on the retain set, whether a model still works.
        bootstrap: Where intervals come from.
        restored: Whether the weights were the same after the attacks; None if they were not compared.
        floors: Score of a model that never knew, per metric, if there is no control.
        interrupted: By what the run was ended before its time; empty if it was not.
    """

    index: ObservationIndex
    utility: str
    bootstrap: Bootstrap
    restored: bool | None
    floors: Mapping[str, float]
    interrupted: str = ""

    @cached_property
    def cases(self) -> Cases:
        """The models behind each recovery."""
        return Cases(self.index)

    def levels(self) -> list[Level]:
        """The original, the unlearned and the control model, on each metric and split: of the output, then of layers."""
        index = self.index
        return [
            Level(o.subject, o.step, o.metric, o.split, self.bootstrap.level(o), layer)
            for layer, metric in product(index.layers, index.every_metric)
            for subject, split in product(get_args(Subject), index.splits)
            if (o := index.find(metric, split, subject=subject, layer=layer)) is not None
        ]

    def gates(self) -> list[Gate]:
        """Every gate: those of all numbers first, then those of each attack."""
        general = [self._utility_gate(), gate_restored(self.restored), *map(self._gap_gate, self.index.metrics)]
        general += gate_complete(self.index.standing, self.interrupted)
        general += membership_gates(self.index, self.bootstrap)
        return general + [gate for attack in self.index.attacks for gate in self._gates_of(attack)]

    def recoveries(self, gates: Sequence[Gate]) -> list[Recovery]:
        """The recovery by each attack at each of its points; the worst point of each is marked."""
        marked = []
        for metric in self.index.metrics:
            for attack in self.index.attacks:
                recoveries = [self._recovery(metric, attack, point) for point in self.index.points(attack, metric)]
                # Gates come first: the worst point is the worst of those that may be a verdict.
                if recoveries:
                    marked += mark_worst([_gated(recovery, gates) for recovery in recoveries])
        return with_q_values(marked)

    def _utility_gate(self) -> Gate:
        original = self.index.find(self.utility, "retain", subject="original")
        return gate_utility(original, self.index.find(self.utility, "retain", subject="unlearned"))

    def _gap_gate(self, metric: str) -> Gate:
        original = self.index.find(metric, "forget", subject="original")
        unlearned = self.index.find(metric, "forget", subject="unlearned")
        if original is None or unlearned is None:
            return gate_gap(metric, None, None)
        return gate_gap(metric, self.bootstrap.gap(original, unlearned), original.bounds)

    def _gates_of(self, attack: str) -> Iterator[Gate]:
        yield gate_baseline(attack, step=self.index.last_step(attack), final=self.index.final_step())
        failed = self.index.failure_on_control(attack)
        yield gate_control(attack, found=failed is None and self._control_was_attacked(attack), failed=failed)
        if (share := self.index.share_reached(attack)) is not None:
            yield gate_reach(attack, share)
        if not self._is_deployment(attack):
            yield gate_changed(attack, self.cases.changed(attack))
        for point in self.index.points(attack):
            if self._is_deployment(attack):
                yield gate_intact(
                    attack, point, self._utilities(attack, point), self._utilities_of_original(attack, point)
                )
            yield gate_specificity(attack, point, self._level(SPECIFICITY, "forget", attack, point))

    def _is_deployment(self, attack: str) -> bool:
        # The looser gates of an adversary apply if any observation is of another family.
        families = {o.family for o in self.index.observations if o.attack == attack}
        return families <= DEPLOYMENTS

    def _control_was_attacked(self, attack: str) -> bool:
        attacked = [self.index.find(m, "forget", subject="control", attack=attack) for m in self.index.metrics]
        return any(o is not None for o in attacked)

    def _recovery(self, metric: str, attack: str, point: float) -> Recovery:
        case = self.cases.at(metric, attack, point)
        further = {split: self._level(metric, split, attack, point) for split in self.index.further_splits}
        return Recovery(
            attack=attack,
            attack_config=case.attacked.attack_config,
            family=case.attacked.family,
            point=point,
            unit=case.attacked.unit,
            step=case.attacked.step,
            metric=metric,
            forget=self.bootstrap.level(case.attacked),
            retain=self._level(metric, "retain", attack, point),
            rho=case.rho(self.bootstrap),
            adjusted=case.adjusted(self.bootstrap),
            kappa=case.kappa(self.floors.get(metric)),
            price=price_of(*self._utilities(attack, point)),
            specificity=self._level(SPECIFICITY, "forget", attack, point),
            others={split: level for split, level in further.items() if level is not None},
            p_value=case.p_value(),
        )

    def _utilities(self, attack: str, point: float) -> tuple[Observation | None, Observation | None]:
        """The utility of the unlearned model, without the attack and under it."""
        cases = self.cases
        return cases.unattacked(self.utility, "retain", attack), cases.attacked(self.utility, "retain", attack, point)

    def _utilities_of_original(self, attack: str, point: float) -> tuple[Observation | None, Observation | None]:
        before = self.index.find(self.utility, "retain", subject="original")
        return before, self.index.find(self.utility, "retain", subject="original", attack=attack, point=point)

    def _level(self, metric: str, split: str, attack: str, point: float) -> Interval | None:
        observation = self.cases.attacked(metric, split, attack, point)
        return None if observation is None else self.bootstrap.level(observation)


def _gated(recovery: Recovery, gates: Sequence[Gate]) -> Recovery:
    reasons = [f"{gate.code}: {gate.reason}" for gate in gates if gate.blocks and _reaches(gate, recovery)]
    return replace(recovery, reasons=reasons)


def _reaches(gate: Gate, recovery: Recovery) -> bool:
    fits = gate.metric in ("", recovery.metric) and gate.attack in ("", recovery.attack)
    return fits and gate.point in (None, recovery.point)
