"""Predictions to test with: answers of several lengths, one of them without a supervised row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from lightning_unlearn.prediction import Prediction

COUNTS = (3, 0, 2, 4)


def sample(
    counts: Sequence[int] = COUNTS,
    *,
    classes: int = 5,
    seed: int = 0,
    known: float = 0.0,
    dtype: torch.dtype = torch.float64,
) -> Prediction:
    """One answer of each number of rows in ``counts``; ``known`` is added to the score of each label."""
    generator = torch.Generator().manual_seed(seed)
    rows = sum(counts)
    labels = torch.randint(classes, (rows,), generator=generator)
    logits = 2 * torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    logits[torch.arange(rows), labels] += known
    example = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return Prediction(logits.to(dtype).requires_grad_(), labels, example, len(counts))


def original_of(student: Prediction, *, seed: int = 1) -> Prediction:
    """What another network said of the same rows."""
    noise = torch.randn(student.logits.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return with_logits(student, (student.logits.detach() + noise).to(student.logits.dtype))


def with_logits(prediction: Prediction, logits: torch.Tensor) -> Prediction:
    return replace(prediction, logits=logits)


def reorder(prediction: Prediction, rows: torch.Tensor) -> Prediction:
    """The rows in another order, each of the example it was."""
    return replace(
        prediction, logits=prediction.logits[rows], labels=prediction.labels[rows], example=prediction.example[rows]
    )


def renumber(prediction: Prediction, numbers: torch.Tensor, batch_size: int) -> Prediction:
    """Example ``i`` becomes example ``numbers[i]`` of ``batch_size``."""
    return replace(prediction, example=numbers[prediction.example], batch_size=batch_size)


def interleaving(prediction: Prediction, *, seed: int = 2) -> torch.Tensor:
    """An order of the rows that mixes the examples and keeps the order inside each."""
    shuffled = prediction.example[shuffle(prediction, seed=seed)]
    rows = torch.empty_like(shuffled)
    for number in range(prediction.batch_size):
        rows[shuffled == number] = (prediction.example == number).nonzero().flatten()
    return rows


def shuffle(prediction: Prediction, *, seed: int = 2) -> torch.Tensor:
    """Any order of the rows."""
    return torch.randperm(len(prediction.example), generator=torch.Generator().manual_seed(seed))
