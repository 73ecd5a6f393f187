"""Split rows of tokens into question and answer, and put other answers behind the questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lightning_unlearn.prediction import IGNORED
from lightning_unlearn.readouts._base import Exchange


def cut_rows(tokens: Tensor, asked: Tensor, supervised: Tensor) -> list[Exchange]:
    """Question and answer of each row.

    Args:
        tokens: Token ids, ``[B, T]``.
        asked: Which of them stand before the first supervised one, ``[B, T]`` bool.
        supervised: Which of them are to be predicted, ``[B, T]`` bool.

    Example:
        >>> asked = torch.tensor([[True, True, False]])
        >>> [(q.tolist(), a.tolist()) for q, a in cut_rows(torch.tensor([[5, 6, 7]]), asked, ~asked)]
        [([5, 6], [7])]
    """
    return [
        Exchange(row[q].cpu(), row[a].cpu()) for row, q, a in zip(tokens, asked.bool(), supervised.bool(), strict=True)
    ]


def splice(batch: Mapping[str, Any], asked: Tensor, mask: Tensor | None, answers: Sequence[Tensor]) -> dict[str, Any]:
    """The questions of ``batch``, each followed by another answer, which is supervised; padded on the right.

    Args:
        batch: With ``input_ids [B, T]``; whatever else it holds stays as it is.
        asked: Which tokens are the question's, ``[B, T]`` bool.
        mask: Attention mask, ``[B, T]``; the question's tokens keep their values. ``None`` if all are seen.
        answers: Token ids that follow each question, ``[n]``, ``B`` of them.

    Example:
        >>> batch = {"input_ids": torch.tensor([[5, 6, 7]])}
        >>> spliced = splice(batch, torch.tensor([[True, True, False]]), None, [torch.tensor([8, 9])])
        >>> spliced["input_ids"].tolist(), spliced["labels"].tolist()
        ([[5, 6, 8, 9]], [[-100, -100, 8, 9]])
    """
    tokens: Tensor = batch["input_ids"]
    mask = torch.ones_like(tokens) if mask is None else mask
    # Row by row: questions differ in length, and padding, on either side, is dropped and made anew.
    rows, masks, labels = [], [], []
    for row, seen, question, answer in zip(tokens, mask, asked.bool(), answers, strict=True):
        follows = answer.to(row)
        rows.append(torch.cat([row[question], follows]))
        masks.append(torch.cat([seen[question], torch.ones_like(follows, dtype=seen.dtype)]))
        labels.append(torch.cat([torch.full_like(row[question], IGNORED), follows]))
    return {
        **batch,
        "input_ids": pad_sequence(rows, batch_first=True),
        "attention_mask": pad_sequence(masks, batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
    }
