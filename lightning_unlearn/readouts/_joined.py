"""Two batches of token rows as one, and its prediction taken apart again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_unlearn.prediction import IGNORED, Prediction

_FILL = {"input_ids": 0, "attention_mask": 0, "labels": IGNORED}


def may_join(first: Any, second: Any) -> bool:
    """Whether both batches hold nothing but tokens, labels and perhaps a mask, ``[B, T]`` each.

    Example:
        >>> rows = {"input_ids": torch.ones(1, 2), "labels": torch.ones(1, 2)}
        >>> may_join(rows, rows), may_join(rows, {**rows, "pixel_values": torch.ones(1, 3)})
        (True, False)
    """
    return all(_is_plain(batch) for batch in (first, second))


def join_rows(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The rows of ``first``, then those of ``second``, padded on the right to one width.

    Example:
        >>> one = {"input_ids": torch.tensor([[5]]), "labels": torch.tensor([[5]])}
        >>> two = {"input_ids": torch.tensor([[6, 7]]), "labels": torch.tensor([[-100, 7]])}
        >>> {name: rows.tolist() for name, rows in join_rows(one, two).items()}
        {'input_ids': [[5, 0], [6, 7]], 'attention_mask': [[1, 0], [1, 1]], 'labels': [[5, -100], [-100, 7]]}
    """
    width = max(batch["input_ids"].shape[1] for batch in (first, second))
    return {name: torch.cat([_widened(batch, name, width) for batch in (first, second)]) for name in _FILL}


def split_rows(both: Prediction, size: int) -> tuple[Prediction, Prediction]:
    """What a network predicts for the first ``size`` examples, and for the others: slices, without a copy.

    Example:
        >>> both = Prediction(torch.zeros(3, 4), torch.tensor([1, 2, 3]), torch.tensor([0, 0, 1]), batch_size=2)
        >>> first, second = split_rows(both, 1)
        >>> first.labels.tolist(), second.labels.tolist(), second.example.tolist(), second.batch_size
        ([1, 2], [3], [0], 1)
    """
    rows = int((both.example < size).sum())  # they are in the order of the examples
    sizes = [rows, len(both.labels) - rows]
    scores = vars(both)["logits"]
    # `split`, whose backward joins the parts once; slices would fill a tensor with zeros for each. Logits that are not
    # computed yet are of another class, and stay so.
    here = torch.arange(len(both.labels), device=both.labels.device).split(sizes)
    logits = scores.split(sizes) if type(scores) is Tensor else [scores[index] for index in here]
    labels, example = both.labels.split(sizes), both.example.split(sizes)
    features = (None, None) if both.features is None else both.features.split(sizes)
    first = replace(both, logits=logits[0], labels=labels[0], example=example[0], batch_size=size, features=features[0])
    second = replace(
        both,
        logits=logits[1],
        labels=labels[1],
        example=example[1] - size,
        batch_size=both.batch_size - size,
        features=features[1],
    )
    return first, second


def _is_plain(batch: Any) -> bool:
    if not isinstance(batch, Mapping) or not {"input_ids", "labels"} <= set(batch) <= set(_FILL):
        return False
    return all(isinstance(v, Tensor) and v.dim() == 2 and v.shape == batch["labels"].shape for v in batch.values())


def _widened(batch: Mapping[str, Tensor], name: str, width: int) -> Tensor:
    rows = batch[name] if name in batch else torch.ones_like(batch["input_ids"])  # without a mask nothing is hidden
    return F.pad(rows, (0, width - rows.shape[1]), value=_FILL[name])
