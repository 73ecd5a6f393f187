"""Who brought back most: by family of attacks and by metric, as plain values."""

from collections.abc import Callable, Sequence
from typing import Any

from lightning_unlearn.report.analysis._worst import strongest
from lightning_unlearn.report.schema import Recovery


def place_of(recovery: Recovery | None) -> dict[str, Any] | None:
    """Where a recovery stands in the table."""
    if recovery is None:
        return None
    return {"attack": recovery.attack, "point": recovery.point, "unit": recovery.unit}


def by_family(recoveries: Sequence[Recovery]) -> list[dict[str, Any]]:
    """One row for each family of attacks: its strongest verdict, and how many attacks and verdicts there were.

    Attacks of one kind find the same hole; a model that withstands one family may fall to another.
    """
    return _rows(recoveries, "family", lambda recovery: recovery.family)


def by_metric(recoveries: Sequence[Recovery]) -> list[dict[str, Any]]:
    """One row for each metric, as :func:`by_family`: what comes back in one form may not in another."""
    return _rows(recoveries, "metric", lambda recovery: recovery.metric)


def _rows(recoveries: Sequence[Recovery], name: str, of: Callable[[Recovery], str]) -> list[dict[str, Any]]:
    return [
        {name: kind, **_row([r for r in recoveries if of(r) == kind])} for kind in dict.fromkeys(map(of, recoveries))
    ]


def _row(recoveries: Sequence[Recovery]) -> dict[str, Any]:
    worst = strongest(recoveries)
    shown = None if worst is None else worst.shown
    return {
        "worst": place_of(worst),
        "value": None if shown is None else shown.value,
        "low": None if shown is None else shown.low,
        "high": None if shown is None else shown.high,
        "q_value": None if worst is None else worst.q_value,
        "attacks": len({recovery.attack for recovery in recoveries}),
        "verdicts": sum(recovery.is_verdict for recovery in recoveries),
    }
