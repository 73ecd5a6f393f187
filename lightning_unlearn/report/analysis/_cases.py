from dataclasses import dataclass

from lightning_unlearn.observation import Observation
from lightning_unlearn.report.analysis._case import Case
from lightning_unlearn.report.analysis._observation_index import ObservationIndex
from lightning_unlearn.report.analysis._paired_scores import of_common_examples


@dataclass(frozen=True)
class Cases:
    """The models behind each recovery, found among the observations.

    Args:
        index: The observations.
    """

    index: ObservationIndex

    def at(self, metric: str, attack: str, point: float) -> Case:
        """The models behind one recovery; the metric has to have been observed under the attack at this point."""
        attacked = self.attacked(metric, "forget", attack, point)
        assert attacked is not None  # the point was read from it
        return Case(
            attacked,
            original=self.index.find(metric, "forget", subject="original"),
            unlearned=self.unattacked(metric, "forget", attack),
            control=self.index.find(metric, "forget", subject="control"),
            control_attacked=self._control_under(attack, metric, point),
        )

    def attacked(self, metric: str, split: str, attack: str, point: float) -> Observation | None:
        """The attacked model at a point of the attack's last run."""
        subject, step = self.index.attacked_subject, self.index.last_step(attack)
        return self.index.find(metric, split, subject=subject, step=step, attack=attack, point=point)

    def unattacked(self, metric: str, split: str, attack: str, layer: str = "") -> Observation | None:
        """The unlearned model at the step of the attack; if it was not observed then, its last observation."""
        step, find = self.index.last_step(attack), self.index.find
        at_that_step = find(metric, split, subject="unlearned", step=step, layer=layer)
        return at_that_step or find(metric, split, subject="unlearned", layer=layer)

    def _control_under(self, attack: str, metric: str, point: float) -> Observation | None:
        # If the attack failed on the control, none of its points is taken off: the worst point of a curve would else be the
        # one that the control happened not to reach.
        if self.index.failure_on_control(attack) is not None:
            return None
        return self.index.find(metric, "forget", subject="control", attack=attack, point=point)

    def changed(self, attack: str) -> bool | None:
        """Whether anything that was observed is another number under the attack; None if nothing can be compared."""
        own = [o for o in self.index.of(attack) if o.step == self.index.last_step(attack)]
        pairs = [(o, self.unattacked(o.metric, o.split, attack, o.layer)) for o in own]
        compared = [of_common_examples([o, before]) for o, before in pairs if before is not None]
        return any(_differ(after, before) for after, before in compared) if compared else None


def _differ(after: Observation, before: Observation) -> bool:
    # NaN differs from itself: a model that was broken was changed.
    return after.scores != before.scores or after.estimate != before.estimate
