"""Checks of the reference that an objective gets."""

from lightning_unlearn.objectives._base import Objective
from lightning_unlearn.prediction import Likelihood, Prediction


def need_likelihood(objective: Objective, student: Likelihood, reference: Likelihood | None) -> Likelihood:
    """The reference, checked to be of the same rows as the student."""
    name = type(objective).__name__
    if reference is None:
        raise ValueError(
            f"`{name}` should get what the original model said of the same rows. Found `reference = None`. In a fit, "
            "`Unlearn` gets it by itself; by hand, pass `KnownLikelihood(...)` or another `Prediction`."
        )
    found = (reference.example.numel(), reference.batch_size)
    if found != (wanted := (student.example.numel(), student.batch_size)):
        raise ValueError(
            f"`{name}` should get a reference of the same rows: {wanted[0]} rows of {wanted[1]} examples. "
            f"Found {found[0]} rows of {found[1]} examples."
        )
    return reference


def need_distribution(objective: Objective, student: Prediction, reference: Likelihood | None) -> Prediction:
    """The same, checked to hold logits of the student's shape."""
    known = need_likelihood(objective, student, reference)
    name = type(objective).__name__
    if not isinstance(known, Prediction):
        raise ValueError(
            f"`{name}` should get the original model's whole distribution, a `Prediction`. Found "
            f"`{type(known).__name__}`, which only knows likelihoods. Use `AdapterDisabled()` or `FrozenCopy()`."
        )
    if known.scores.shape != student.scores.shape:
        raise ValueError(
            f"`{name}` should get a reference with the student's vocabulary: logits of shape "
            f"{tuple(student.scores.shape)}. Found {tuple(known.scores.shape)}."
        )
    return known
