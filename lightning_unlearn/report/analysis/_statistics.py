"""Numbers and their uncertainty: pure functions of arrays."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def resampled_means(scores: Floats, entities: Sequence[str], *, draws: int = 2000, seed: int = 0) -> Floats:
    r"""Means of each column over entities drawn with replacement: the paired cluster bootstrap.

    Rows of one entity (an author, a document, a class) are drawn together, because they are not independent. All
    columns share each draw, so differences and ratios between columns keep their pairing.

    Args:
        scores: One row per example, one column per observation, ``[n, k]``.
        entities: Which entity each row belongs to, ``n`` names.
        draws: Number of resamples ``B``.
        seed: Of the generator. Equal seeds give equal draws for equal entities.

    Returns:
        ``[B, k]``.

    Example:
        >>> resampled_means(np.ones((4, 2)), ["a", "a", "b", "b"], draws=2).tolist()
        [[1.0, 1.0], [1.0, 1.0]]

    References:
        Field and Welsh, *Bootstrapping clustered data*, JRSS B, 2007, section 2 (the cluster bootstrap).
    """
    # Numbered in the order of their names: equal entities get equal draws, in whatever order they come.
    cluster = np.unique(np.asarray(entities), return_inverse=True)[1]
    counts = np.bincount(cluster)
    totals = np.stack([np.bincount(cluster, weights=column) for column in scores.T], axis=1)
    generator = np.random.default_rng(seed)
    means = np.empty((draws, scores.shape[1]))
    for draw in range(draws):
        times = np.bincount(generator.integers(len(counts), size=len(counts)), minlength=len(counts))
        # Total over examples by number of examples, both of this draw: entities may have unequally many.
        means[draw] = times @ totals / (times @ counts)
    return means


def percentile_interval(samples: Floats, *, level: float = 0.95) -> tuple[float, float]:
    """The central interval that holds a share ``level`` of the samples, ``[B]``.

    Example:
        >>> percentile_interval(np.arange(5.0), level=0.5)
        (1.0, 3.0)
    """
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def ratio(numerator: Floats | float, denominator: Floats | float) -> Floats:
    """Divide, giving NaN (and no warning) where the denominator is 0.

    Example:
        >>> ratio(np.array([1.0, 1.0]), np.array([2.0, 0.0])).tolist()
        [0.5, nan]
    """
    over, under = np.broadcast_arrays(np.asarray(numerator, dtype=float), np.asarray(denominator, dtype=float))
    shares: Floats = np.divide(over, under, out=np.full(over.shape, np.nan), where=under != 0)
    return shares


def recovery_rate(original: Floats | float, unlearned: Floats | float, attacked: Floats | float) -> Floats:
    r"""The share of what was removed that an attack brought back.

    .. math:: \rho = \frac{M_\mathrm{attacked} - M_\mathrm{unlearned}}{M_\mathrm{original} - M_\mathrm{unlearned}}

    0: as forgotten as before the attack. 1: as known as before unlearning. The sign of a metric cancels, so a loss, where
    less means more knowledge, needs no special case. NaN where there was no gap.

    Example:
        >>> float(recovery_rate(original=0.9, unlearned=0.1, attacked=0.5))
        0.5
    """
    return ratio(np.subtract(attacked, unlearned), np.subtract(original, unlearned))


def adjusted_recovery_rate(
    original: Floats | float,
    unlearned: Floats | float,
    attacked: Floats | float,
    control: Floats | float,
    control_attacked: Floats | float,
) -> Floats:
    r"""The recovery rate, less what the same attack teaches a model that never knew.

    .. math:: \rho_c = \frac{(M_\mathrm{attacked} - M_\mathrm{unlearned}) -
        (M_\mathrm{control, attacked} - M_\mathrm{control})}{M_\mathrm{original} - M_\mathrm{unlearned}}

    Example:
        >>> float(adjusted_recovery_rate(0.75, 0.25, 0.5, control=0.25, control_attacked=0.5))
        0.0
    """
    taught = np.subtract(control_attacked, control)
    return ratio(np.subtract(attacked, unlearned) - taught, np.subtract(original, unlearned))


def retained_knowledge(original: float, attacked: float, floor: float) -> float:
    r"""How much a model still knows, from a model that never knew (0) to the original (1).

    .. math:: \kappa = \frac{M_\mathrm{attacked} - M_\mathrm{floor}}{M_\mathrm{original} - M_\mathrm{floor}}

    Example:
        >>> retained_knowledge(original=1.0, attacked=0.625, floor=0.25)
        0.5
    """
    return float(recovery_rate(original, floor, attacked))
