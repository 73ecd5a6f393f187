"""The worst case of a report, chosen by one half of the entities and judged by the other."""

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_unlearn.report.analysis._bootstrap import OVER_ENTITIES, Bootstrap
from lightning_unlearn.report.analysis._cases import Cases
from lightning_unlearn.report.analysis._held_out import can_be_halved, held_out_worst
from lightning_unlearn.report.analysis._worst import strongest
from lightning_unlearn.report.schema import Interval, Recovery


@dataclass(frozen=True)
class FairWorst:
    """A worst case that was not chosen by the entities it is about.

    Args:
        recovery: What comes back, beyond the control where there is one.
        choices: What each half of the entities chose.
    """

    recovery: Interval
    choices: tuple[Recovery, Recovery]

    @property
    def is_one(self) -> bool:
        """Whether both halves chose the same attack at the same point."""
        return self.choices[0] is self.choices[1]


def fair_worst(recoveries: Sequence[Recovery], cases: Cases, bootstrap: Bootstrap) -> FairWorst | None:
    """The worst of the recoveries that are a verdict.

    Returns:
        None if there are too few entities to be halved, or the strongest has no scores by entity: then only the largest
        number on all entities can be given, which errs upwards.
    """
    tried = [recovery for recovery in recoveries if recovery.is_verdict]
    shares = [cases.at(recovery.metric, recovery.attack, recovery.point).totals() for recovery in tried]
    worst = strongest(tried)
    if worst is None or tried.index(worst) not in can_be_halved(shares, bootstrap.seed):
        return None
    found = held_out_worst(shares, seed=bootstrap.seed)
    assert found is not None  # the strongest can be halved
    over, under = found.totals.over, found.totals.under
    bare = Interval(
        float(over.sum() / under.sum()), entities=len(over), method=f"{OVER_ENTITIES}, chosen by other entities"
    )
    return FairWorst(bootstrap.of_totals(found.totals, bare), (tried[found.choices[0]], tried[found.choices[1]]))
