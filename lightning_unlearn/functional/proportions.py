"""What may be said of a share from how often it was seen."""

from scipy.special import betaincinv


def clopper_pearson(successes: float, trials: float, *, level: float = 0.95) -> tuple[float, float]:
    """The exact interval of a share.

    Args:
        successes: How often it was seen; no whole number if trials that resemble each other count for less.
        trials: In how many trials.
        level: How often the interval should hold the truth.

    Example:
        >>> [round(end, 3) for end in clopper_pearson(0, 20)]
        [0.0, 0.168]

    References:
        Clopper and Pearson, *The use of confidence or fiducial limits illustrated in the case of the binomial*, 1934.
    """
    tail = (1 - level) / 2
    low = 0.0 if successes == 0 else float(betaincinv(successes, trials - successes + 1, tail))
    high = 1.0 if successes == trials else float(betaincinv(successes + 1, trials - successes, 1 - tail))
    return low, high
