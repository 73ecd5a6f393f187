"""Packing a padded batch into one sequence, without padding, and with a shared prefix only once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Packed:
    """A batch as one sequence.

    Args:
        tokens: ``[1, T]``: the shared prefix, then the rest of each row.
        positions: Position of each token in its row, ``[1, T]``.
        visible: Which tokens (second axis) each token (first axis) may attend to, ``[1, 1, T, T]`` bool: the prefix, and
            the tokens before it in its own row.
        column: Column of each token in the padded batch, ``[T]``.
        row: Row of each token, ``[T]``; the prefix belongs to the first row.
        prefix: Number of tokens of the prefix.
    """

    tokens: Tensor
    positions: Tensor
    visible: Tensor
    column: Tensor
    row: Tensor
    prefix: int


def pack(tokens: Tensor, present: Tensor, supervised: Tensor) -> Packed:
    """Pack the rows of a batch into one sequence.

    The prefix ends before the first token, in any row, that predicts a supervised one. So every prediction is made in its
    own row. With attention limited to ``visible``, the hidden state of each token is the same as in its own row.

    Args:
        tokens: ``[B, T]``, padded on either side.
        present: Which tokens are not padding, ``[B, T]`` bool.
        supervised: Which tokens predict a supervised label, ``[B, T]`` bool: each is one to the left of its label.

    Example:
        >>> tokens = torch.tensor([[1, 2, 3, 4], [1, 2, 5, 0]])
        >>> packed = pack(tokens, tokens > 0, torch.tensor([[0, 0, 1, 0], [0, 1, 0, 0]]).bool())
        >>> packed.tokens.tolist(), packed.positions.tolist()
        ([[1, 2, 3, 4, 2, 5]], [[0, 1, 2, 3, 1, 2]])
    """
    prefix = _shared_prefix(tokens, present, supervised)
    offset = present.int().cumsum(1) - 1  # place of a token in its row, padding on the left not counted
    # The first row keeps its prefix for all; the others start after it.
    kept = present & ((offset >= prefix) | (torch.arange(len(tokens), device=tokens.device) == 0)[:, None])
    row, column = kept.nonzero().unbind(1)
    position = offset[row, column]
    segment = torch.where(position < prefix, -1, row)  # -1 is the prefix, which every row sees
    order = torch.arange(len(row), device=tokens.device)
    visible = (segment[:, None] == segment) | (segment == -1)
    visible &= order[:, None] >= order  # causal: tokens of a row stand in order
    return Packed(tokens[row, column][None], position[None], visible[None, None], column, row, prefix)


def _shared_prefix(tokens: Tensor, present: Tensor, supervised: Tensor) -> int:
    lengths = present.sum(1)
    shortest = int(lengths.min())
    if len(tokens) == 1 or shortest == 0:
        return 0
    start = present.int().argmax(1)  # the first token after padding on the left
    aligned = tokens.gather(1, start[:, None] + torch.arange(shortest, device=tokens.device))
    # Length of the longest common prefix, and where the earliest prediction stands: it has to stay outside.
    same = (aligned == aligned[:1]).all(0).int().cumprod(0).sum()
    columns = torch.arange(tokens.shape[1], device=tokens.device)
    first = torch.where(supervised, columns - start[:, None], tokens.shape[1]).min()
    return int(torch.minimum(same, first))
