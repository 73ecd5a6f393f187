"""How well scores tell two sets of examples apart: the area under the ROC curve, and what is read off the curve."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, stdtrit

from lightning_unlearn.functional.proportions import clopper_pearson

Floats = NDArray[np.float64]

SMALLEST_DENOMINATOR = 0.02
"""PrivLeak divides by ``1 - AUC`` of the control. Below this it says more about the control than about the model."""

LEAST_CLUSTERS = 5
"""With fewer, an interval over clusters covers much less than it says."""

_BLOCK = 100
"""Resamples at a time: their counts take as many times the memory of the scores."""


def places(members: ArrayLike, others: ArrayLike) -> Floats:
    r"""For each member, the share of the others that it scores higher than; a tie counts half.

    .. math:: \frac{1}{M} \sum_{j=1}^{M} \bigl[ s_i > t_j \bigr] + \tfrac{1}{2} \bigl[ s_i = t_j \bigr]

    Their mean is the area under the ROC curve. NaN for all if any score is NaN: it has no place.

    Args:
        members: Scores :math:`s`, ``[N]``.
        others: Scores :math:`t`, ``[M]``.

    Returns:
        ``[N]``, in [0, 1].

    Example:
        >>> places([3.0, 1.0], [1.0, 2.0]).tolist()
        [1.0, 0.25]

    References:
        Hanley and Hajian-Tilaki, *Sampling variability of nonparametric estimates of the areas under receiver operating
        characteristic curves*, 1997 (placement values).
    """
    s, t = (np.asarray(scores, dtype=float) for scores in (members, others))
    if np.isnan(s).any() or np.isnan(t).any() or not len(t):
        return np.full(len(s), np.nan)
    t = np.sort(t)
    return (np.searchsorted(t, s, "left") + np.searchsorted(t, s, "right")) / (2 * len(t))


def auc_interval(
    members: ArrayLike,
    others: ArrayLike,
    clusters: tuple[Sequence[str], Sequence[str]],
    *,
    draws: int = 1000,
    seed: int = 0,
) -> tuple[float, float] | None:
    """A 95 % interval of the area under the ROC curve. Both sets are resampled, whole clusters at a time.

    With fewer than five clusters on one side no such interval holds what it promises. Then examples are resampled, and the
    interval is of these clusters alone.

    If the sets do not overlap at all, every resample says so, and the bootstrap would claim certainty. The bound is then
    that of Clopper and Pearson, for as many independent pairs as can be made: one per cluster of the smaller set.

    In simulations with 5 to 30 clusters the interval covered an AUC between 0.5 and 0.8 in 93 to 97 % of all cases, and one
    of 0.93 in 88 to 92 %.

    Args:
        members: Scores, ``[N]``.
        others: Scores, ``[M]``.
        clusters: The cluster (author, document, class) of each member, and of each other.
        draws: Number of resamples.
        seed: Of the generator.

    Returns:
        None with fewer than two examples on one side, or if a score is NaN.

    Example:
        >>> low, high = auc_interval([1.0, 2.0, 3.0], [0.0, 2.0, 1.0], (["a", "b", "c"], ["d", "e", "f"]))
        >>> 0 <= low < 7 / 9 < high <= 1
        True
    """
    s, t = (np.asarray(scores, dtype=float) for scores in (members, others))
    if min(len(set(names)) for names in clusters) < LEAST_CLUSTERS:
        clusters = [str(i) for i in range(len(s))], [str(j) for j in range(len(t))]
    (of_s, number), (of_t, other_number) = (_numbered(names) for names in clusters)
    if min(number, other_number) < 2 or np.isnan(s).any() or np.isnan(t).any():
        return None
    pairs = min(number, other_number)
    if s.min() > t.max() or s.max() < t.min():
        won = pairs if s.min() > t.max() else 0
        return clopper_pearson(won, pairs)
    # Sorted once. A resample only changes how often each score counts.
    order = t.argsort()
    below, up_to = (np.searchsorted(t[order], s, side) for side in ("left", "right"))
    generator = np.random.default_rng(seed)
    values = []
    for start in range(0, draws, _BLOCK):
        block = min(_BLOCK, draws - start)
        # How often each cluster is drawn, in each resample: as many as there are, with replacement.
        times, behind = (generator.multinomial(k, np.full(k, 1 / k), size=block) for k in (number, other_number))
        counted = np.zeros((block, len(t) + 1), dtype=np.int64)
        behind[:, of_t[order]].cumsum(1, out=counted[:, 1:])
        won = (times[:, of_s] * (counted[:, below] + counted[:, up_to])).sum(1)
        values.append(won / (2.0 * times[:, of_s].sum(1) * counted[:, -1]))
    tail = _expanded_tail(pairs)
    low, high = np.quantile(np.concatenate(values), [tail, 1 - tail])
    return float(low), float(high)


def _expanded_tail(clusters: int) -> float:
    """The share of resamples to leave out at each end, instead of 2.5 %.

    Resamples vary too little by a factor ``sqrt(1 - 1 / n)``, and have the tails of a normal distribution instead of those
    of Student's: Hesterberg, *What Teachers Should Know About the Bootstrap*, 2015, section 5.2 (expanded percentiles).
    """
    distance = stdtrit(clusters - 1, 0.975) * math.sqrt(clusters / (clusters - 1))
    return float(ndtr(-distance))


def _numbered(names: Sequence[str]) -> tuple[NDArray[np.int64], int]:
    """The number of each cluster, by the order of the names, and how many there are."""
    unique, numbers = np.unique(np.asarray(names, dtype=str), return_inverse=True)
    return numbers, len(unique)


def recognised(members: ArrayLike, others: ArrayLike, rate: float) -> NDArray[np.bool_]:
    """Which members score above the threshold that at most a share ``rate`` of the others exceeds, ``[N]``.

    Their share is the true positive rate at this false positive rate. With fewer than ``1 / rate`` others, none of them may
    exceed it. If there is a NaN, nobody is recognised.

    Example:
        >>> recognised([3.0, 1.5, 0.0], [1.0, 2.0], rate=0.01).tolist()
        [True, False, False]
        >>> recognised([3.0, 1.5, 0.0], [1.0, 2.0], rate=0.5).tolist()
        [True, True, False]
    """
    s, t = (np.asarray(scores, dtype=float) for scores in (members, others))
    if np.isnan(s).any() or np.isnan(t).any():
        return np.zeros(len(s), dtype=bool)
    # A small part is added: `0.29 * 100` is a little less than 29.
    allowed = min(math.floor(rate * len(t) + 1e-9), len(t) - 1)
    found: NDArray[np.bool_] = s > np.sort(t)[::-1][allowed]
    return found


def advantage(auc: float) -> float:
    """How far an observer gets beyond guessing, in [0, 1], whichever way the scores point: ``2 |AUC - 0.5|``.

    Example:
        >>> advantage(0.0), advantage(0.5), advantage(0.75)
        (1.0, 0.0, 0.5)
    """
    return 2 * abs(auc - 0.5)


def advantage_interval(interval: tuple[float, float]) -> tuple[float, float]:
    """The interval of the advantage, from that of the AUC.

    Example:
        >>> advantage_interval((0.25, 0.625)), advantage_interval((0.75, 1.0))
        ((0.0, 0.5), (0.5, 1.0))
    """
    ends = sorted(map(advantage, interval))
    return (0.0 if interval[0] <= 0.5 <= interval[1] else ends[0]), ends[1]


def privacy_leakage(auc: float, control: float) -> float | None:
    r"""PrivLeak of MUSE, in per cent, for comparison with published tables.

    .. math:: 100 \cdot \frac{(1 - A) - (1 - A_c)}{1 - A_c}

    0: as a model that never knew. -100: all that must go is recognised. Positive: unlearned too much, without a bound. It
    explodes where the control's own AUC is near 1, and is not given there.

    Args:
        auc: :math:`A`, how often what must go looks *more* like training data than the holdout does.
        control: :math:`A_c`, the same of a model that never knew.

    Returns:
        None if ``1 - control`` is below ``SMALLEST_DENOMINATOR``.

    Example:
        >>> privacy_leakage(1.0, 0.5), privacy_leakage(0.0, 0.5), privacy_leakage(0.5, 0.99)
        (-100.0, 100.0, None)

    References:
        Shi et al., `MUSE <https://arxiv.org/abs/2407.06460>`_, 2024, eq. 2. There the AUC is :math:`1 - A`.
    """
    if not 1 - control >= SMALLEST_DENOMINATOR:
        return None
    return 100 * ((1 - auc) - (1 - control)) / (1 - control)
