"""Which attack, and which of its points, brought back most."""

import math
from collections.abc import Sequence
from dataclasses import replace

from lightning_unlearn.report.schema import Recovery


def strongest(recoveries: Sequence[Recovery]) -> Recovery | None:
    """The largest recovery that is a verdict, if there is one. Its price plays no part."""
    verdicts = [recovery for recovery in recoveries if recovery.is_verdict and math.isfinite(recovery.shown.value)]
    return max(verdicts, key=lambda recovery: recovery.shown.value, default=None)


def highest(recoveries: Sequence[Recovery]) -> Recovery:
    """The largest recovery of all, whether it passes its gates or not; numbers that are not finite come last."""
    return max(recoveries, key=lambda r: r.shown.value if math.isfinite(r.shown.value) else -math.inf)


def mark_worst(recoveries: Sequence[Recovery]) -> list[Recovery]:
    """Mark the point of one attack that brought back most: among verdicts, or among all points if none is a verdict."""
    worst = strongest(recoveries) or highest(recoveries)
    return [replace(recovery, worst=recovery is worst) for recovery in recoveries]
