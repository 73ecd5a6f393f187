from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import Tensor

from lightning_unlearn.prediction import KnownLikelihood, Likelihood, Prediction

T = TypeVar("T")


@dataclass(frozen=True)
class Halves(Generic[T]):
    """Values of the examples that must go, and of their companions, in the same order."""

    forget: T
    companion: T


class PairedPrediction(Prediction):
    """A :class:`Prediction` of what must go, and of a companion to each: another answer, or another question.

    The first half of its examples must go; the second half are their companions, in the same order.
    :func:`halves_of_examples` and :func:`halves_of_rows` tell them apart by name.
    """


def halves_of_examples(values: Tensor) -> Halves[Tensor]:
    """Split values per example of a :class:`PairedPrediction`, ``[2 B]``.

    Example:
        >>> import torch
        >>> halves_of_examples(torch.tensor([1, 2, 3, 4])).companion
        tensor([3, 4])
    """
    forget, companion = values.chunk(2)
    return Halves(forget, companion)


def halves_of_rows(likelihood: Likelihood) -> Halves[Likelihood]:
    """Split the rows of a :class:`PairedPrediction`, or of a reference's likelihoods of the same batch.

    Example:
        >>> import torch
        >>> both = PairedPrediction(torch.zeros(3, 5), torch.tensor([1, 2, 3]), torch.tensor([0, 1, 1]), batch_size=2)
        >>> halves = halves_of_rows(both)
        >>> halves.forget.labels.tolist(), halves.companion.labels.tolist(), halves.companion.example.tolist()
        ([1], [2, 3], [0, 0])
    """
    half = likelihood.batch_size // 2
    return Halves(_rows(likelihood, 0, half), _rows(likelihood, half, half))


def _rows(likelihood: Likelihood, first: int, size: int) -> Likelihood:
    """The rows of ``size`` examples from number ``first`` on, as a batch of their own."""
    kept = (likelihood.example >= first) & (likelihood.example < first + size)
    # Examples are numbered within the half, from 0.
    example = likelihood.example[kept] - first
    if not isinstance(likelihood, Prediction):
        return KnownLikelihood(likelihood.token_nll()[kept], example, size)
    features = None if likelihood.features is None else likelihood.features[kept]
    return Prediction(likelihood.scores[kept], likelihood.labels[kept], example, size, features)
