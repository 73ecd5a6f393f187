"""One attack at one point: the observations from which its recovery is computed."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from lightning_unlearn.observation import Observation
from lightning_unlearn.report.analysis._bootstrap import GAP, RECOVERED, Bootstrap
from lightning_unlearn.report.analysis._paired_scores import of_common_examples, paired_scores
from lightning_unlearn.report.analysis._statistics import retained_knowledge
from lightning_unlearn.report.analysis._tests import chance_of_more
from lightning_unlearn.report.analysis._totals import Totals, weighted_totals
from lightning_unlearn.report.schema import Interval


@dataclass(frozen=True)
class Case:
    """The models behind one recovery; None where one was not observed.

    Args:
        attacked: The model under the attack.
        original: Before unlearning.
        unlearned: Before the attack.
        control: A model that never knew.
        control_attacked: The same, under the attack.

    Example:
        >>> def seen(level, subject="unlearned"):
        ...     return Observation("p", "forget", level, subject=subject, scores=[level - 0.0625, level + 0.0625] * 3)
        >>> case = Case(seen(0.5), seen(0.75, "original"), seen(0.25))
        >>> case.rho(Bootstrap()).value, case.p_value() < 0.05
        (0.5, True)
    """

    attacked: Observation
    original: Observation | None = None
    unlearned: Observation | None = None
    control: Observation | None = None
    control_attacked: Observation | None = None

    @property
    def student(self) -> list[Observation]:
        """Original, unlearned and attacked model; empty if not all were observed."""
        found = [o for o in (self.original, self.unlearned, self.attacked) if o is not None]
        return found if len(found) == 3 else []

    @property
    def controls(self) -> list[Observation]:
        """The control and the attacked control; empty if not both were observed."""
        found = [o for o in (self.control, self.control_attacked) if o is not None]
        return found if len(found) == 2 else []

    @property
    def raw(self) -> Self:
        """The same without a control."""
        return replace(self, control=None, control_attacked=None)

    def rho(self, bootstrap: Bootstrap) -> Interval:
        """The recovery; NaN without all three models, which the gates explain."""
        return bootstrap.recovery(*self.student) if self.student else Interval(float("nan"))

    def adjusted(self, bootstrap: Bootstrap) -> Interval | None:
        """The recovery beyond the control's; None without one."""
        return bootstrap.adjusted(self.student, self.controls) if self.student and self.controls else None

    def kappa(self, floor: float | None) -> float | None:
        """What is still known, from the control's level (or ``floor``) to the original's; a single number."""
        wanted = [o for o in (self.original, self.attacked, self.control) if o is not None]
        if self.original is None or (self.control is None and floor is None):
            return None
        levels = [o.estimate for o in of_common_examples(wanted)]
        return retained_knowledge(levels[0], levels[1], levels[2] if self.control is not None else float(floor or 0.0))

    def p_value(self) -> float | None:
        """How probable so much recovery would be if nothing came back, or nothing beyond the control if there is one."""
        totals = list(self.totals().values())
        if not totals:
            return None
        over, under = np.array(totals).T
        return chance_of_more(over * np.sign(under.sum()))

    def totals(self) -> Mapping[str, tuple[float, float]]:
        """What each entity adds to the numerator and to the gap of the recovery to lead with; empty without scores."""
        if not self.student:
            return {}
        observations = of_common_examples([*self.student, *self.controls])
        scores, entities = paired_scores(observations), observations[0].clusters
        if scores is None or any(o.interval for o in observations):
            return {}
        found = self._weighted(scores, entities)
        return dict(
            zip(sorted(set(entities)), zip(found.over.tolist(), found.under.tolist(), strict=True), strict=True)
        )

    def _weighted(self, scores: np.ndarray, entities: list[str]) -> Totals:
        taught = [1, -1] if self.controls else []
        return weighted_totals(scores, entities, [*RECOVERED, *taught], [*GAP, *(0 for _ in taught)])
