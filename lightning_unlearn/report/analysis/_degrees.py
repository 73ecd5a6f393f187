"""How well a model forgot and kept, each as one number that punishes too much as well as too little."""

import math
from collections.abc import Callable, Mapping
from typing import get_args

from lightning_unlearn.observation import Subject
from lightning_unlearn.report.analysis._observation_index import ObservationIndex
from lightning_unlearn.report.analysis._paired_scores import of_common_examples
from lightning_unlearn.report.analysis._statistics import retained_knowledge


def symmetric_degree(found: float, wanted: float) -> float:
    r"""How near a level is to the one wanted, :math:`\max(0, 1 - |A / B - 1|)`: 1 is equal, 0 is none or twice as much.

    Example:
        >>> symmetric_degree(15, 30), symmetric_degree(45, 30), symmetric_degree(0, 30)
        (0.5, 0.5, 0.0)

    References:
        Xu et al., `FIT <https://arxiv.org/abs/2601.21682>`_, 2026: the forget degree and the retain utility.
    """
    return max(0.0, 1 - abs(found / wanted - 1)) if wanted else float(found == wanted)


def harmonic_mean(dropped: float, kept: float) -> float:
    r"""How well both was done, :math:`H = 2 \, \mathrm{Drop} \, \mathrm{Kept} / (\mathrm{Drop} + \mathrm{Kept})`.

    Args:
        dropped: Forget level before, less after.
        kept: Retain level after.

    Example:
        >>> harmonic_mean(0.5, 0.5), harmonic_mean(0.0, 1.0)
        (0.5, 0.0)

    References:
        Zhao et al., `Continual Forgetting for Pre-trained Vision Models <https://arxiv.org/abs/2403.11530>`_, 2024.
    """
    return 2 * dropped * kept / (dropped + kept) if dropped > 0 and kept > 0 else 0.0


def degrees(index: ObservationIndex, metric: str, utility: str, floors: Mapping[str, float]) -> dict[str, float | None]:
    """What unlearning alone did, before any attack; None where a model or a range is missing.

    ``forget_degree`` compares the unlearned model with the control on the forget set. ``retain_utility`` compares it on
    the retain set with the control if there is one, which is what unlearning should arrive at, else with the original.
    ``h_mean`` is for metrics from 0 to 1. ``still_known`` is 0 at the floor (the control, or what the user gave) and 1 at
    the original.
    """
    full, less, never = _levels(index, metric, "forget")
    kept_full, kept, kept_never = _levels(index, utility, "retain")
    floor = floors.get(metric) if never is None else never
    bounded = all(_is_bounded(index, name) for name in (metric, utility))
    return {
        "forget_degree": _of(symmetric_degree, less, never),
        "retain_utility": _of(symmetric_degree, kept, kept_full if kept_never is None else kept_never),
        "h_mean": _of(lambda before, after, rest: harmonic_mean(before - after, rest), full, less, kept)
        if bounded
        else None,
        "still_known": _of(retained_knowledge, full, less, floor),
    }


def _of(number: Callable[..., float], *levels: float | None) -> float | None:
    if any(level is None for level in levels):
        return None
    found = number(*levels)
    return found if math.isfinite(found) else None


def _levels(index: ObservationIndex, metric: str, split: str) -> list[float | None]:
    """Of the original, the unlearned model and the control, on common examples."""
    found = {subject: index.find(metric, split, subject=subject) for subject in get_args(Subject)}
    there = [subject for subject, observation in found.items() if observation is not None]
    common = of_common_examples([o for o in found.values() if o is not None]) if there else []
    estimates = {subject: o.estimate for subject, o in zip(there, common, strict=True)}
    return [estimates.get(subject) for subject in ("original", "unlearned", "control")]


def _is_bounded(index: ObservationIndex, metric: str) -> bool:
    own = [o for o in index.observations if o.metric == metric]
    return bool(own) and all(o.bounds == (0.0, 1.0) and o.higher_means_known for o in own)
