"""What the recovery curves of a report say about effort, as plain values."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_unlearn.report.analysis._effort import Steps, area_under_recovery, median_steps, steps_to_recover
from lightning_unlearn.report.schema import Recovery

WANTED = (0.5, 0.9)
"""Shares of what was removed whose recovery is timed."""
STEPS = "step"
"""The unit of points that count effort."""


def curve_of(recoveries: Sequence[Recovery]) -> tuple[list[float], list[float]]:
    """Steps and recoveries of the points that are a verdict, ascending."""
    counted = [r for r in recoveries if r.unit == STEPS and r.is_verdict and math.isfinite(r.shown.value)]
    ordered = sorted(counted, key=lambda recovery: recovery.point)
    return [recovery.point for recovery in ordered], [recovery.shown.value for recovery in ordered]


def effort_by_attack(recoveries: Sequence[Recovery]) -> list[dict[str, Any]]:
    """One row for each attack that counts steps.

    ``to_half`` and ``to_90`` are the steps until so much is recovered, as :func:`steps_as_values` puts them; ``area`` and
    ``log_area`` the mean recovery over steps and over their logarithm; ``budget`` the most steps tried; ``most`` the
    largest recovery.
    """
    rows = []
    for attack in dict.fromkeys(recovery.attack for recovery in recoveries):
        points, shares = curve_of([recovery for recovery in recoveries if recovery.attack == attack])
        if points and points[-1] > 0:
            half, most = (steps_as_values(steps_to_recover(points, shares, wanted)) for wanted in WANTED)
            areas = [area_under_recovery(points, shares, log=log) for log in (False, True)]
            rows.append(
                {
                    "attack": attack,
                    "budget": points[-1],
                    "most": max(shares),
                    "to_half": half,
                    "to_90": most,
                    "area": areas[0],
                    "log_area": areas[1],
                }
            )
    return rows


def least_effort(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The fewest steps in which any attack recovered half; if none did, the most steps that were tried."""
    if not rows:
        return None
    reached = [row for row in rows if row["to_half"]["reached"]]
    if not reached:
        return max((_effort(row) for row in rows), key=lambda effort: effort["steps"])
    return min((_effort(row) for row in reached), key=lambda effort: effort["steps"])


def median_effort(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The Kaplan-Meier median, over attacks, of the steps to half; None without attacks that count steps."""
    median = median_steps([Steps(row["to_half"]["steps"], row["to_half"]["reached"]) for row in rows])
    return None if median is None else {**steps_as_values(median), "attacks": len(rows)}


def steps_as_values(steps: Steps) -> dict[str, Any]:
    """A number of steps as plain values: ``steps``, ``reached`` and how to show it, ``words``.

    Example:
        >>> steps_as_values(Steps(20, reached=False))
        {'steps': 20.0, 'reached': False, 'words': '> 20'}
    """
    return {"steps": float(steps.number), "reached": steps.reached, "words": steps.words}


def _effort(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"attack": row["attack"], **row["to_half"]}
