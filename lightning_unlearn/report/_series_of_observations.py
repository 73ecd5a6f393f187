"""Finding looks among the observations, and pairing those that saw the same examples."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from lightning_unlearn.observation import NOT_ATTACKED, Observation, Subject
from lightning_unlearn.report._statistics import Floats


@dataclass(frozen=True)
class ObservationSeries:
    """All observations of a run, to be searched. Of two looks at the same thing, the later one counts.

    Args:
        observations: In the order they were made.
    """

    observations: Sequence[Observation]

    def find(
        self,
        metric: str,
        split: str,
        *,
        step: int | None = None,
        attack: str = NOT_ATTACKED,
        point: int | None = None,
        subject: Subject | None = None,
    ) -> Observation | None:
        """The latest look that fits; ``step`` and ``point`` are free if None."""
        wanted = (metric, split, attack)
        among = self.students if subject is None else [o for o in self.observations if o.subject == subject]
        for observation in reversed(among):
            fits = (observation.metric, observation.split, observation.attack) == wanted
            if fits and step in (None, observation.step) and point in (None, observation.point):
                return observation
        return None

    @property
    def metrics(self) -> list[str]:
        """Metrics read on the forget set, in order of appearance."""
        return _unique(observation.metric for observation in self.observations if observation.split == "forget")

    @property
    def attacks(self) -> list[str]:
        """Attacks on the student after unlearning had begun, in order of appearance; all of them, if it never had."""
        begun = self.unlearned_step > self.original_step
        return _unique(
            observation.attack
            for observation in self.students
            if observation.attacked and (observation.step > self.original_step or not begun)
        )

    @property
    def students(self) -> list[Observation]:
        """The looks at the student."""
        return [observation for observation in self.observations if observation.subject != "control"]

    @property
    def original_step(self) -> int:
        """Step of the first look at the student when it was not attacked."""
        return min((observation.step for observation in self.students if not observation.attacked), default=0)

    @property
    def unlearned_step(self) -> int:
        """Step of the last look at the student when it was not attacked."""
        return max((observation.step for observation in self.students if not observation.attacked), default=0)

    def last_step(self, attack: str) -> int:
        """Step at which an attack last ran on the student."""
        return max(observation.step for observation in self.students if observation.attack == attack)

    def points(self, attack: str, metric: str, step: int) -> list[int]:
        """Points of an attack at one step of the fit, ascending."""
        wanted = (attack, metric, step, "forget")
        found = {
            observation.point
            for observation in self.students
            if (observation.attack, observation.metric, observation.step, observation.split) == wanted
        }
        return sorted(found)

    def headline(self) -> str:
        """The metric to lead with: the first where more means more knowledge and the range is known, or the first."""
        forget = [observation for observation in self.observations if observation.split == "forget"]
        plain = [observation.metric for observation in forget if observation.higher_means_known]
        bounded = [
            observation.metric for observation in forget if observation.higher_means_known and observation.bounds
        ]
        return next(iter([*bounded, *plain, *self.metrics]), "")

    def utility(self, headline: str) -> str:
        """The metric that says whether a model still works: the headline, if it was read on the retain set too."""
        retained = _unique(observation.metric for observation in self.observations if observation.split == "retain")
        return headline if headline in retained else next(iter(retained), "")


def paired_scores(looks: Sequence[Observation]) -> Floats | None:
    """Scores of several looks as columns, ``[n, k]``; None unless all saw the same examples and all is finite.

    Example:
        >>> low = Observation(metric="p", split="forget", value=0.1, step=9, scores=[0.1], entities=["Ada"])
        >>> high = Observation(metric="p", split="forget", value=0.9, step=0, scores=[0.9], entities=["Ada"])
        >>> paired_scores([high, low]).tolist()
        [[0.9, 0.1]]
    """
    first = looks[0]
    if not first.scores or any(observation.clusters != first.clusters for observation in looks):
        return None
    scores = np.array([observation.scores for observation in looks], dtype=float).T
    return scores if np.isfinite(scores).all() else None


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
