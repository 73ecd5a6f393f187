"""Which weights of a live network a low-bit deployment stores in few bits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from torch import nn

from lightning_unlearn.models.layers import Matrix, name_fits, output_heads, placed_matrices


def deployed_matrices(network: nn.Module, *, skip: Sequence[str], head: bool) -> tuple[list[Matrix], Counter[str]]:
    """Find the weights that quantised loaders convert, each once.

    Args:
        network: Where to look, itself included.
        skip: Names of layers to leave out, as ``fnmatch`` patterns of a full name or of any part between dots.
        head: Whether the output head belongs to them.

    Returns:
        The weights, and for each reason to leave weights out, how many were.
    """
    placed = list(placed_matrices(network))
    heads = set() if head else set(output_heads(network))
    embeddings = {matrix.key for matrix in placed if matrix.layout.kind == "embedding"}
    chosen: dict[int, Matrix] = {}  # by weight: two layers may share one, and it should be rounded once
    left_out: Counter[str] = Counter()
    for matrix in _convertible(placed):
        if matrix.factor_of is not None:
            left_out["an adapter's"] += 1
        elif matrix.module in heads:
            left_out["the output head"] += 1
        elif matrix.key in embeddings:
            left_out["tied to an embedding"] += 1
        elif name_fits(matrix.layer, skip):
            left_out["in `skip`"] += 1
        elif matrix.is_low_bit:
            left_out["low-bit already"] += 1
        elif matrix.is_computed:
            left_out["computed of other parameters"] += 1
        else:
            chosen.setdefault(matrix.key, matrix)
    return list(chosen.values()), left_out


def _convertible(placed: Sequence[Matrix]) -> Iterator[Matrix]:
    return (m for m in placed if m.layout.kind == "linear" or isinstance(m.module, nn.Conv2d))
