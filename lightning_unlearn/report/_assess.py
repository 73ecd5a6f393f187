"""From observations to levels, gates and recoveries."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lightning_unlearn.observation import Observation
from lightning_unlearn.report._gates import (
    gate_baseline,
    gate_control,
    gate_gap,
    gate_intact,
    gate_restored,
    gate_utility,
)
from lightning_unlearn.report._intervals import Bootstrap
from lightning_unlearn.report._schema import Gate, Interval, Level, Recovery
from lightning_unlearn.report._series_of_observations import ObservationSeries
from lightning_unlearn.report._statistics import retained_knowledge

SPLITS: tuple[str, str] = ("forget", "retain")


@dataclass(frozen=True)
class Assessment:
    """What the observations say, once every number has met its gates.

    Args:
        looks: The observations.
        utility: The metric that says, on the retain set, whether a model still works.
        bootstrap: Where intervals come from.
        restored: Whether the weights were the same after the attacks; None if nobody compared.
        floors: What a model that never knew scores, per metric. A control, if there is one, says it better.
    """

    observations: ObservationSeries
    utility: str
    bootstrap: Bootstrap
    restored: bool | None
    floors: Mapping[str, float]

    def levels(self) -> list[Level]:
        """The original, the unlearned and the control model, on each metric and split."""
        levels = []
        for metric in self.observations.metrics:
            for observation in self._unattacked(metric):
                levels.append(
                    Level(
                        self._model(observation),
                        observation.step,
                        metric,
                        observation.split,
                        self.bootstrap.level(observation),
                    )
                )
        return levels

    def gates(self) -> list[Gate]:
        """Every gate, those of all numbers first."""
        gates = [self._utility_gate(self.observations.unlearned_step), gate_restored(self.restored)]
        gates += [self._gap_gate(metric, self.observations.unlearned_step) for metric in self.observations.metrics]
        for attack in self.observations.attacks:
            step = self.observations.last_step(attack)
            gates += [
                gate_baseline(attack, step=step, final=self.observations.unlearned_step),
                self._control_gate(attack),
            ]
            points = {
                point
                for metric in self.observations.metrics
                for point in self.observations.points(attack, metric, step)
            }
            gates += [self._intact_gate(attack, point, step) for point in sorted(points)]
        return gates

    def recoveries(self) -> list[Recovery]:
        """What each attack brought back at each of its points, worst points marked."""
        gates, found = self.gates(), []
        for metric in self.observations.metrics:
            for attack in self.observations.attacks:
                points = self.observations.points(attack, metric, self.observations.last_step(attack))
                recoveries = [self._recovery(metric, attack, point) for point in points]
                found += mark_worst([_gated(recovery, gates) for recovery in recoveries])
        return found

    def _unattacked(self, metric: str) -> list[Observation]:
        steps = dict.fromkeys((self.observations.original_step, self.observations.unlearned_step))
        observations = [self.observations.find(metric, split, step=step) for step in steps for split in SPLITS]
        observations += [self.observations.find(metric, split, subject="control") for split in SPLITS]
        return [observation for observation in observations if observation is not None]

    def _model(self, observation: Observation) -> Literal["original", "unlearned", "control"]:
        if observation.subject == "control":
            return "control"
        return "original" if observation.step == self.observations.original_step else "unlearned"

    def _utility_gate(self, step: int) -> Gate:
        original, unlearned = (
            self.observations.find(self.utility, "retain", step=at) for at in (self.observations.original_step, step)
        )
        return gate_utility(original, unlearned)

    def _gap_gate(self, metric: str, step: int) -> Gate:
        original, unlearned = (
            self.observations.find(metric, "forget", step=at) for at in (self.observations.original_step, step)
        )
        if original is None or unlearned is None or original is unlearned:
            return gate_gap(metric, None, None)
        return gate_gap(metric, self.bootstrap.gap(original, unlearned), original.bounds)

    def _intact_gate(self, attack: str, point: int, step: int) -> Gate:
        unlearned = self.observations.find(self.utility, "retain", step=step)
        attacked = self.observations.find(self.utility, "retain", step=step, attack=attack, point=point)
        return gate_intact(attack, point, unlearned, attacked)

    def _control_gate(self, attack: str) -> Gate:
        metrics = self.observations.metrics
        found = any(self.observations.find(metric, "forget", attack=attack, subject="control") for metric in metrics)
        return gate_control(attack, found=found)

    def _recovery(self, metric: str, attack: str, point: int) -> Recovery:
        find, step = self.observations.find, self.observations.last_step(attack)
        attacked = find(metric, "forget", step=step, attack=attack, point=point)
        assert attacked is not None  # it is where the point was read from
        retain = find(metric, "retain", step=step, attack=attack, point=point)
        original = find(metric, "forget", step=self.observations.original_step)
        unlearned = find(metric, "forget", step=step) or find(metric, "forget", step=self.observations.unlearned_step)
        control = find(metric, "forget", subject="control")
        control_attacked = find(metric, "forget", attack=attack, point=point, subject="control")
        student = [observation for observation in (original, unlearned, attacked) if observation is not None]
        controls = [observation for observation in (control, control_attacked) if observation is not None]
        complete = len(student) == 3
        return Recovery(
            attack=attack,
            attack_config=attacked.attack_config,
            family=attacked.family,
            point=point,
            unit=attacked.unit,
            step=step,
            metric=metric,
            forget=self.bootstrap.level(attacked),
            retain=self.bootstrap.level(retain) if retain else None,
            rho=self.bootstrap.recovery(*student) if complete else Interval(math.nan),
            adjusted=self.bootstrap.adjusted(student, controls) if complete and len(controls) == 2 else None,
            kappa=self._kappa(original, attacked, control),
        )

    def _kappa(self, original: Observation | None, attacked: Observation, control: Observation | None) -> float | None:
        floor = control.estimate if control else self.floors.get(attacked.metric)
        if floor is None or original is None:
            return None
        return retained_knowledge(original.estimate, attacked.estimate, floor)


def mark_worst(recoveries: Sequence[Recovery]) -> list[Recovery]:
    """Mark the point that brought back most: among those that are a verdict, or among all if none is."""
    finite = [recovery for recovery in recoveries if math.isfinite(recovery.shown.value)]
    verdicts = [recovery for recovery in finite if recovery.is_verdict]
    worst = max(verdicts or finite or recoveries, key=lambda recovery: recovery.shown.value, default=None)
    return [replace(recovery, worst=recovery is worst) for recovery in recoveries]


def _gated(recovery: Recovery, gates: Sequence[Gate]) -> Recovery:
    reasons = [f"{gate.code}: {gate.reason}" for gate in gates if gate.blocks and _reaches(gate, recovery)]
    return replace(recovery, reasons=reasons)


def _reaches(gate: Gate, recovery: Recovery) -> bool:
    fits = gate.metric in ("", recovery.metric) and gate.attack in ("", recovery.attack)
    return fits and gate.point in (None, recovery.point)
