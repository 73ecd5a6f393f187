"""Batches in several orders: what a readout saw first should not matter for what comes later."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

Batch = dict[str, Tensor]
IGNORED = -100
_TOKENS = range(3, 58)  # not special ones, nor placeholders of images and sound


def batch(seed: int, lengths: Sequence[int], *, shared: int = 0, prompt: int = 2, side: str = "right") -> Batch:
    """Rows of given lengths; each supervises what follows its prompt.

    Args:
        seed: Of the tokens.
        lengths: Of the rows.
        shared: How many tokens all rows begin with.
        prompt: How many tokens of a row are not supervised, at least ``shared``.
        side: Where the padding is.
    """
    generator = torch.Generator().manual_seed(seed)
    begin = torch.randint(_TOKENS.start, _TOKENS.stop, (shared,), generator=generator)
    rows = [
        torch.cat([begin, torch.randint(_TOKENS.start, _TOKENS.stop, (n - shared,), generator=generator)])
        for n in lengths
    ]
    labels = [torch.cat([torch.full((max(prompt, shared),), IGNORED), row[max(prompt, shared) :]]) for row in rows]
    return {
        "input_ids": pad_sequence(rows, batch_first=True, padding_value=0, padding_side=side),
        "attention_mask": pad_sequence([torch.ones_like(r) for r in rows], batch_first=True, padding_side=side),
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED, padding_side=side),
    }


def alone(whole: Batch) -> list[Batch]:
    """Each row as a batch of its own, without padding."""
    return [
        {name: values[row, seen][None] for name, values in whole.items()}
        for row, seen in enumerate(whole["attention_mask"].bool())
    ]


# Windows and chunks of the tiny models are of 8 tokens. Long rows are beyond three of them.
_SHORT = {"lengths": [6, 6], "shared": 3}
_LONG = {"lengths": [28, 28, 28, 28], "shared": 18}
_EVEN = {"lengths": [20, 20, 20]}
_MIXED = {"lengths": [4, 27, 9, 17]}

ORDERS: dict[str, list[Batch]] = {
    "short first": [batch(1, **_SHORT), batch(2, **_LONG)],
    "long first": [batch(3, **_LONG), batch(4, **_SHORT)],
    "padding left": [batch(5, **_SHORT), batch(6, **_MIXED, side="left"), batch(7, **_LONG, side="left")],
    "mixed": [batch(8, **_MIXED), batch(9, **_EVEN), batch(10, [5, 26, 12, 14], shared=4)],
}
"""By name, batches that one readout sees one after the other."""
