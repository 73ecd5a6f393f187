"""Finding looks among the observations, and pairing those that saw the same examples."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from lightning_unlearn.report._schema import NOT_ATTACKED, Observation, Split, Subject
from lightning_unlearn.report._statistics import Floats


@dataclass(frozen=True)
class Looks:
    """All observations of a run, to be searched. Of two looks at the same thing, the later one counts.

    Args:
        observations: In the order they were made.
    """

    observations: Sequence[Observation]

    def find(
        self,
        metric: str,
        split: Split,
        *,
        step: int | None = None,
        attack: str = NOT_ATTACKED,
        point: int | None = None,
        subject: Subject = "student",
    ) -> Observation | None:
        """The latest look that fits; ``step`` and ``point`` are free if None."""
        wanted = (metric, split, attack, subject)
        for look in reversed(self.observations):
            fits = (look.metric, look.split, look.attack, look.subject) == wanted
            if fits and step in (None, look.step) and point in (None, look.point):
                return look
        return None

    @property
    def metrics(self) -> list[str]:
        """Metrics read on the forget set, in order of appearance."""
        return _unique(look.metric for look in self.observations if look.split == "forget")

    @property
    def attacks(self) -> list[str]:
        """Attacks on the student after unlearning had begun, in order of appearance; all of them, if it never had."""
        begun = self.unlearned_step > self.original_step
        return _unique(
            look.attack for look in self.students if look.attacked and (look.step > self.original_step or not begun)
        )

    @property
    def students(self) -> list[Observation]:
        """The looks at the student."""
        return [look for look in self.observations if look.subject == "student"]

    @property
    def original_step(self) -> int:
        """Step of the first look at the student when it was not attacked."""
        return min((look.step for look in self.students if not look.attacked), default=0)

    @property
    def unlearned_step(self) -> int:
        """Step of the last look at the student when it was not attacked."""
        return max((look.step for look in self.students if not look.attacked), default=0)

    def last_step(self, attack: str) -> int:
        """Step at which an attack last ran on the student."""
        return max(look.step for look in self.students if look.attack == attack)

    def points(self, attack: str, metric: str, step: int) -> list[int]:
        """Points of an attack at one step of the fit, ascending."""
        wanted = (attack, metric, step, "forget")
        found = {look.point for look in self.students if (look.attack, look.metric, look.step, look.split) == wanted}
        return sorted(found)

    def headline(self) -> str:
        """The metric to lead with: the first where more means more knowledge and the range is known, or the first."""
        forget = [look for look in self.observations if look.split == "forget"]
        plain = [look.metric for look in forget if look.higher_means_more_knowledge]
        bounded = [look.metric for look in forget if look.higher_means_more_knowledge and look.bounds]
        return next(iter([*bounded, *plain, *self.metrics]), "")

    def utility(self, headline: str) -> str:
        """The metric that says whether a model still works: the headline, if it was read on the retain set too."""
        retained = _unique(look.metric for look in self.observations if look.split == "retain")
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
    if not first.scores or any(look.clusters != first.clusters for look in looks):
        return None
    scores = np.array([look.scores for look in looks], dtype=float).T
    return scores if np.isfinite(scores).all() else None


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
