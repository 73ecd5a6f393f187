"""Shared parts of objectives that read what must go together with companions."""

from __future__ import annotations

from torch import Tensor

from lightning_unlearn.functional.likelihood import mean_or_zero
from lightning_unlearn.objectives._base import Objective
from lightning_unlearn.prediction import Likelihood, Prediction
from lightning_unlearn.readouts import Halves, PairedPrediction, halves_of_rows


def need_pair(who: Objective, student: Prediction, companion: str) -> None:
    """Refuse a prediction without companions. ``companion`` is the kind that ``who`` is meant for, in code, for the error.

    Raises:
        ValueError: If it is no :class:`PairedPrediction`, or of an odd number of examples.
    """
    if not isinstance(student, PairedPrediction) or student.batch_size % 2:
        raise ValueError(
            f"`{type(who).__name__}` should get what must go and a companion to each, a `PairedPrediction` of an even "
            f"number of examples. Found a `{type(student).__name__}` of {student.batch_size}. Use "
            f"`readout=PairedReadout()`, and `PairedData(records, {companion}, encoding)` as the forget data."
        )


def forget_and_keep(objective: Objective, student: Prediction, reference: Likelihood | None) -> Halves[Tensor]:
    """``objective`` on what must go, and the cross-entropy of its companions."""
    prediction = halves_of_rows(student)
    original = None if reference is None else halves_of_rows(reference).forget
    return Halves(objective(prediction.forget, original), mean_or_zero(prediction.companion.token_nll()))
