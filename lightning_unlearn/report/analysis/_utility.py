"""How much of a model's usefulness is left."""

import math

from lightning_unlearn.observation import Observation
from lightning_unlearn.report.analysis._paired_scores import of_common_examples

LOSS = "loss"
"""Name of the user's own loss: its units are not known, so two of them are compared by their ratio."""


def as_utility(observation: Observation) -> float:
    """A metric as a utility, of which more is better: itself, or the likelihood :math:`e^{-x}` of a loss in nats.

    Example:
        >>> as_utility(Observation("token_nll", "retain", 0.0, higher_means_known=False))
        1.0
    """
    # `exp` overflows a little above 700.
    return observation.estimate if observation.higher_means_known else math.exp(min(-observation.estimate, 700.0))


def kept_share(before: Observation | None, after: Observation | None) -> float | None:
    """Utility after, as a share of utility before. None if one was not measured, or if there was none before.

    Of the user's own loss, 1 / loss is compared; None where it is not positive.

    Example:
        >>> kept_share(Observation("p", "retain", 0.5), Observation("p", "retain", 0.25))
        0.5
    """
    if before is None or after is None:
        return None
    before, after = of_common_examples([before, after])
    if before.metric == LOSS:  # e^-loss would depend on its units
        return before.estimate / after.estimate if min(before.estimate, after.estimate) > 0 else None
    had = as_utility(before)
    return as_utility(after) / had if had > 0 else None


def price_of(before: Observation | None, after: Observation | None) -> float | None:
    """The share of a model's utility that an attack costs; negative if the attack adds some.

    Example:
        >>> price_of(Observation("p", "retain", 0.5), Observation("p", "retain", 0.125))
        0.75
    """
    kept = kept_share(before, after)
    return None if kept is None else 1 - kept
