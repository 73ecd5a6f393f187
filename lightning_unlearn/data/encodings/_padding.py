"""From encoded rows to a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from lightning_unlearn.functional.compat import Compat
from lightning_unlearn.prediction import IGNORED

Batch = dict[str, Tensor]
"""Tensors by name: one encoded row, or several."""
Collate = Callable[[Sequence[Batch]], Batch]
"""From encoded rows to a batch."""


def pad_right(examples: Sequence[Batch], *, pad_token_id: int) -> Batch:
    """Collate encoded rows into a batch.

    The mask comes from the lengths, not from comparing with the padding token: many models pad with their end-of-turn
    token, and a comparison would hide every end of turn.

    Returns:
        ``input_ids``, ``attention_mask`` and ``labels``, ``[B, T]`` int64, padded on the right.

    Example:
        >>> rows = [{"input_ids": torch.tensor(ids), "labels": torch.tensor(ids)} for ids in ([5, 3], [5])]
        >>> pad_right(rows, pad_token_id=3)["attention_mask"]
        tensor([[1, 1],
                [1, 0]])
    """
    ids = [example["input_ids"] for example in examples]
    return {
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=pad_token_id),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
        "labels": pad_sequence([example["labels"] for example in examples], batch_first=True, padding_value=IGNORED),
    }


def pad_right_hiding(examples: Sequence[Batch], *, pad_token_id: int, hidden: int) -> Batch:
    """:func:`pad_right` with every token ``hidden`` masked, also inside a row.

    Example:
        >>> rows = [{"input_ids": torch.tensor(ids), "labels": torch.tensor(ids)} for ids in ([5, 3, 7], [5])]
        >>> pad_right_hiding(rows, pad_token_id=3, hidden=3)["attention_mask"]
        tensor([[1, 0, 1],
                [1, 0, 0]])
    """
    batch = pad_right(examples, pad_token_id=pad_token_id)
    return {**batch, "attention_mask": batch["attention_mask"] * (batch["input_ids"] != hidden)}


def collate_for(tokenizer: PreTrainedTokenizerBase, compat: Compat | None) -> Collate:
    """How rows become a batch: see ``compat`` of :class:`Encoding`."""
    if compat is None:
        return partial(pad_right, pad_token_id=_with_embedding(tokenizer.pad_token_id, tokenizer))
    hidden = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    if hidden is None:
        raise ValueError(
            f"The tokenizer should have a padding or an end-of-turn token. `{tokenizer.name_or_path}` has neither: use "
            "`compat=None`."
        )
    return partial(pad_right_hiding, pad_token_id=_with_embedding(hidden, tokenizer), hidden=hidden)


def _with_embedding(padding: int | None, tokenizer: PreTrainedTokenizerBase) -> int:
    # Any id will do, since mask and labels hide it, but a network must have an embedding for it: a token that was added
    # to the vocabulary may have none.
    return padding if padding is not None and padding < tokenizer.vocab_size else 0
