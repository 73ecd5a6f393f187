from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from lightning_unlearn.observation import NOT_ATTACKED, SHARE_REACHED, Failure, Observation, Subject

SPECIFICITY = "specificity"
"""Name of the metric that says how often the right answer is ahead of others' answers; chance is 0.5."""


@dataclass(frozen=True)
class ObservationIndex:
    """All observations of a run, to be searched. If the same thing was observed twice, the later observation counts.

    Original, unlearned model and control are distinguished by their ``subject``, never by their step: a one-shot edit
    unlearns at step 0.

    Args:
        observations: In the order they were made.
        failures: What failed meanwhile.
    """

    observations: Sequence[Observation]
    failures: Sequence[Failure] = ()

    def find(
        self,
        metric: str,
        split: str,
        *,
        subject: Subject,
        step: int | None = None,
        attack: str = NOT_ATTACKED,
        point: float | None = None,
        layer: str = "",
    ) -> Observation | None:
        """The latest observation that fits; ``step`` and ``point`` are free if None."""
        # From the end: a resumed or repeated check observes the same thing again, and the later one counts.
        for o in reversed(self._grouped.get((metric, split, subject, attack, layer), [])):
            if step in (None, o.step) and point in (None, o.point):
                return o
        return None

    @cached_property
    def _grouped(self) -> dict[tuple[str, ...], list[Observation]]:
        groups: dict[tuple[str, ...], list[Observation]] = {}
        for o in self.observations:
            groups.setdefault((o.metric, o.split, o.subject, o.attack, o.layer), []).append(o)
        return groups

    @cached_property
    def metrics(self) -> list[str]:
        """Metrics whose recovery is reported: all on the forget set except specificity, in order of appearance."""
        of_output = [o for o in self.observations if o.split == "forget" and not o.layer]
        return _unique(o.metric for o in of_output if o.metric != SPECIFICITY)

    @cached_property
    def every_metric(self) -> list[str]:
        """All metrics on any split, in order of appearance."""
        return _unique([*self.metrics, *(o.metric for o in self.observations)])

    @cached_property
    def layers(self) -> list[str]:
        """Where it was observed: the output first, which has no name, then layers in order of appearance."""
        return _unique(["", *(o.layer for o in self.observations)])

    @cached_property
    def splits(self) -> list[str]:
        """Names of all splits: forget, retain, then the others in order of appearance."""
        names = {o.split for o in self.observations}
        return [split for split in ("forget", "retain") if split in names] + self.further_splits

    @cached_property
    def further_splits(self) -> list[str]:
        """Splits that are neither forgotten nor retained, in order of appearance."""
        return _unique(o.split for o in self.observations if o.split not in ("forget", "retain"))

    @cached_property
    def attacked_subject(self) -> Subject:
        """The model whose attacks count: the unlearned one, or the original if nothing has been unlearned yet."""
        subjects = {o.subject for o in self.observations} | {f.subject for f in self.failures}
        return "unlearned" if "unlearned" in subjects else "original"

    @cached_property
    def attacks(self) -> list[str]:
        """Attacks on that model, in order of appearance."""
        return _unique(o.attack for o in self.observations if o.attacked and o.subject == self.attacked_subject)

    def final_step(self) -> int:
        """Step of that model's last observation without an attack: the verdict is about the model at this step."""
        steps = [o.step for o in self.observations if o.subject == self.attacked_subject and not o.attacked]
        return steps[-1] if steps else 0

    @cached_property
    def standing(self) -> list[Failure]:
        """Failures that keep the verdict from being complete: those on the model that the verdict is about."""
        # Of an earlier check a failure is no loss: the same attack was tried again, on the final model.
        return [f for f in self.failures if f.subject == self.attacked_subject and f.step >= self.final_step()]

    def failure_on_control(self, attack: str) -> Failure | None:
        """How this attack failed on the control; None if it did not."""
        return next((f for f in self.failures if (f.subject, f.attack) == ("control", attack)), None)

    def last_step(self, attack: str) -> int:
        """Step at which an attack last ran on that model."""
        return self.of(attack)[-1].step

    def share_reached(self, attack: str) -> float | None:
        """The share of the weights that the attack's last run reached; None if nobody said so."""
        share = self.of(attack)[-1].attack_config.get(SHARE_REACHED)
        return share if isinstance(share, int | float) else None

    def points(self, attack: str, metric: str | None = None) -> list[float]:
        """Points of the attack's last run, ascending. If a metric is given, only points at which it was observed."""
        # Earlier runs of the attack are for the curves; points of the last run alone make the verdict.
        last = self.last_step(attack)
        observed = [o for o in self.of(attack) if o.step == last and o.split == "forget" and not o.layer]
        return sorted({o.point for o in observed if metric in (None, o.metric)})

    def of(self, attack: str) -> list[Observation]:
        """Everything observed under an attack on that model."""
        return [o for o in self.observations if o.attack == attack and o.subject == self.attacked_subject]


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
