"""Predictions of hidden states to test with: answers of several lengths, some without a supervised row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from lightning_unlearn.prediction import Prediction
from lightning_unlearn.readouts import HiddenStates, PairedPrediction

COUNTS = (3, 0, 2, 4)
WIDTH = 6


def states(
    counts: Sequence[int] = COUNTS,
    *,
    layers: int | None = None,
    width: int = WIDTH,
    seed: int = 0,
    classes: int = 4,
    dtype: torch.dtype = torch.float64,
    kind: type[Prediction] = HiddenStates,
) -> Prediction:
    """One answer of each number of rows, of one layer ``[N, D]`` or of several ``[N, L, D]``."""
    generator = torch.Generator().manual_seed(seed)
    shape = (sum(counts), width) if layers is None else (sum(counts), layers, width)
    features = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    labels = torch.randint(classes, (sum(counts),), generator=torch.Generator().manual_seed(9))
    example = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return kind(features.flatten(1)[:, :0], labels, example, len(counts), features)


def pairs(counts: Sequence[int] = COUNTS, **kwargs: object) -> Prediction:
    """The same, of which the second half are companions of the first."""
    return states(counts, kind=PairedPrediction, **kwargs)


def with_features(prediction: Prediction, features: torch.Tensor) -> Prediction:
    return replace(prediction, logits=features.flatten(1)[:, :0], features=features)


def in_order_of(prediction: Prediction, rows: torch.Tensor) -> Prediction:
    """The rows in another order, each of the example it was, as new leaves."""
    assert prediction.features is not None
    features = prediction.features.detach()[rows].requires_grad_()
    moved = replace(prediction, labels=prediction.labels[rows], example=prediction.example[rows])
    return with_features(moved, features)


def sparse_states(rows: int = 400, width: int = 8, seed: int = 0) -> torch.Tensor:
    """States ``[N, D]``, each a sum of a few of twelve directions: what a sparse autoencoder is for."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.randn(12, width, generator=torch.Generator().manual_seed(9))
    codes = torch.rand(rows, 12, generator=generator) * (torch.rand(rows, 12, generator=generator) < 0.12)
    return codes @ (basis / basis.norm(dim=1, keepdim=True)) + 0.5
