"""Intervals of a ratio of sums over entities: the studentised paired cluster bootstrap, never narrower than Student's t."""

from functools import lru_cache

import numpy as np
from scipy import special

from lightning_unlearn.report.analysis._statistics import Floats

MANY = 1000
"""With more entities Student's t is used alone: the bootstrap agrees with it, and its table of draws would be large."""

FAR = 10.0
"""The most standard errors that a draw lies away; a draw of entities that are all alike, without spread, lies there."""


def studentised_interval(
    over: Floats, under: Floats, *, draws: int = 2000, seed: int = 0, level: float = 0.95
) -> tuple[Floats, Floats]:
    r"""The interval of :math:`r = \sum_i N_i / \sum_i D_i`, where ``i`` runs over independent entities.

    A mean, a difference of means, a recovery and a control-adjusted recovery are all of this form: with the number of
    examples as :math:`D`, or the gap. The residuals :math:`e_i = N_i - r D_i` give the standard error

    .. math:: s = \frac{1}{|\sum_i D_i|} \sqrt{\frac{n}{n - 1} \sum_i e_i^2}

    and resampled entities give the distribution of :math:`t^* = (r^* - r) / s^*`. Each end is at the larger of its
    quantile and that of Student's t with ``n - 1`` degrees of freedom: the one knows how skewed the scores are, the other
    how few entities there are. A percentile interval knows neither, and is far too narrow for fewer than 50 entities:
    ``benchmarks/interval_coverage.py`` has the evidence.

    Args:
        over: The numerators :math:`N_i`, ``[..., n]``.
        under: The denominators :math:`D_i`, ``[..., n]``.
        draws: Number of resamples.
        seed: Of the resamples; the same for all intervals, so that they can be compared.
        level: How often the interval should hold the truth.

    Returns:
        Lower and upper ends, ``[...]``.

    Example:
        >>> low, high = studentised_interval(np.arange(12.0), np.ones(12))
        >>> bool(low < 3.4 < 7.6 < high)  # ends of Student's t, rounded inwards
        True

    References:
        Efron, *Nonparametric Standard Errors and Confidence Intervals*, 1981 (the bootstrap-t); Field and Welsh,
        *Bootstrapping clustered data*, JRSS B, 2007; Hall, *The Bootstrap and Edgeworth Expansion*, 1992, section 3.
    """
    number, tail = over.shape[-1], (1 - level) / 2
    value = over.sum(-1) / under.sum(-1)
    residuals = over - value[..., None] * under
    low = high = students_t(level, number - 1)
    if number <= MANY:
        drawn = np.quantile(_studentised_draws(residuals, under, draws, seed), [tail, 1 - tail], axis=-1)
        # A draw that lies far above the estimate says that the truth may lie far below it.
        low, high = np.maximum(low, drawn[1]), np.maximum(high, -drawn[0])
    error = standard_error(residuals, under)
    return value - low * error, value + high * error


def students_t(level: float, freedom: float) -> float:
    """How many standard errors the ends of a two-sided interval lie away.

    Example:
        >>> round(students_t(0.95, 2), 3)
        4.303
    """
    return float(special.stdtrit(freedom, (1 + level) / 2))


def standard_error(residuals: Floats, under: Floats) -> Floats:
    """The standard error of a ratio from what is left of each numerator, :math:`N_i - r D_i`.

    Example:
        >>> round(float(standard_error(np.array([-1.0, 0.0, 1.0]), np.ones(3))), 4)  # 1 / sqrt(3)
        0.5774
    """
    number = residuals.shape[-1]
    error: Floats = np.sqrt(number / (number - 1) * np.sum(residuals**2, -1)) / np.abs(under.sum(-1))
    return error


def _studentised_draws(residuals: Floats, under: Floats, draws: int, seed: int) -> Floats:
    number = residuals.shape[-1]
    table = drawn_entities(number, draws, seed).T
    total, gap = residuals @ table, under @ table
    # The residuals of a draw are taken about its own ratio: e - moved * D.
    moved = np.divide(total, gap, out=np.zeros_like(total), where=gap != 0)
    spread = residuals**2 @ table - 2 * moved * (residuals * under @ table) + moved**2 * (under**2 @ table)
    error = np.sqrt(np.maximum(number / (number - 1) * spread, 0))
    # Draws of one entity alone, or of equal ones, have no spread but rounding errors.
    certain = spread <= 1e-12 * np.sum(residuals**2, -1)[..., None]
    away = np.divide(moved * np.abs(gap), error, out=FAR * np.sign(moved), where=~certain)
    clipped: Floats = np.clip(away, -FAR, FAR)
    return clipped


@lru_cache(maxsize=4)
def drawn_entities(number: int, draws: int, seed: int) -> Floats:
    """How often each of ``number`` entities is in each resample, ``[draws, number]``.

    Example:
        >>> drawn_entities(5, 3, 0).sum(1).tolist()
        [5.0, 5.0, 5.0]
    """
    table = np.random.default_rng(seed).multinomial(number, np.full(number, 1 / number), size=draws).astype(float)
    table.flags.writeable = False  # one table serves all intervals of a report
    return table
