"""Two parts of a batch: what must go, and what stands beside it."""

from __future__ import annotations

import math

from torch import Tensor

from lightning_unlearn.functional.likelihood import mean_or_zero
from lightning_unlearn.objectives._base import Objective
from lightning_unlearn.prediction import KnownLikelihood, Likelihood, Prediction
from lightning_unlearn.readouts import CompanionPrediction


def keep_companion(
    who: Objective, objective: Objective, student: Prediction, reference: Likelihood | None
) -> list[Tensor]:
    """``objective`` on what must go, and the cross-entropy of what stands beside, for ``who``."""
    if not isinstance(student, CompanionPrediction) or student.batch_size % 2:
        raise ValueError(
            f"`{type(who).__name__}` should get what must go and what stands beside it, a `CompanionPrediction` of an even "
            f"number of examples. Found a `{type(student).__name__}` of {student.batch_size}. Use "
            "`readout=CompanionReadout()`, and `ScopeData` or `DecoupledData` as the forget data."
        )
    loss: Tensor = objective(_half(student, 0), None if reference is None else _half(reference, 0))
    return [loss, mean_or_zero(_half(student, 1).token_nll())]


def check_factor(name: str, factor: float) -> None:
    """Refuse what is negative, infinite or no number."""
    if not 0 <= factor < math.inf:
        raise ValueError(f"`{name}` should be finite and not negative. Found `{name} = {factor}`.")


def _half(said: Likelihood, which: int) -> Likelihood:
    """The first or the second half of the examples."""
    size = said.batch_size // 2
    rows = (said.example >= size) == bool(which)
    example = said.example[rows] - which * size
    if not isinstance(said, Prediction):
        return KnownLikelihood(said.token_nll()[rows], example, size)
    features = None if said.features is None else said.features[rows]
    return Prediction(said.logits[rows], said.labels[rows], example, size, features)
