"""Which weights of a live network a low-bit deployment stores in few bits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from lightning_unlearn.models.layers import (
    Matrix,
    covered_share,
    name_fits,
    output_heads,
    placed_matrices,
    replaced_modules,
)

AS_IN_DEPLOYMENTS = ("an adapter's", "an embedding", "the output head", "tied to an embedding")
"""Reasons to leave a weight out that quantised loaders have, too."""


@dataclass(frozen=True)
class Deployed:
    """The weights that are stored in few bits, each once, and those that are not.

    Args:
        matrices: The weights to round.
        left_out: For each reason to leave weights out, how many were.
        share: How much of the weights that a deployment rounds ``matrices`` are, from 0 to 1; 1 if there are none.
    """

    matrices: list[Matrix]
    left_out: Counter[str]
    share: float


def deployed(
    network: nn.Module,
    *,
    skip: Sequence[str],
    head: bool,
    unfit: Callable[[Matrix], str] = lambda matrix: "",
    each_layer: bool = False,
) -> Deployed:
    """Find the weights that quantised loaders convert.

    Args:
        network: Where to look, itself included.
        skip: Names of layers to leave out, as ``fnmatch`` patterns of a full name or of any part between dots.
        head: Whether the output head belongs to them.
        unfit: Why a further weight does not belong to them; empty if it does.
        each_layer: Whether a weight that two layers share is needed once for each of them.
    """
    replaced = set(replaced_modules(network))
    placed = [matrix for matrix in placed_matrices(network) if matrix.module not in replaced]
    heads = set() if head else set(output_heads(network))
    embeddings = {matrix.key for matrix in placed if matrix.layout.kind == "embedding"}
    chosen: dict[Any, Matrix] = {}
    missed: list[Matrix] = []
    left_out: Counter[str] = Counter()
    for matrix in placed:
        reason = _reason(matrix, heads, embeddings, skip) or unfit(matrix)
        if not reason:
            chosen.setdefault(_place(matrix, each_layer), matrix)
            continue
        left_out[reason] += 1
        if reason not in AS_IN_DEPLOYMENTS:
            missed.append(matrix)
    matrices = list(chosen.values())
    return Deployed(matrices, left_out, covered_share(network, matrices, among=[*matrices, *missed]))


def _reason(matrix: Matrix, heads: set[nn.Module], embeddings: set[Any], skip: Sequence[str]) -> str:
    """Why a weight is left out; empty if it is not."""
    reasons = {
        "an adapter's": matrix.factor_of is not None,
        "an embedding": matrix.layout.kind == "embedding",
        "the output head": matrix.module in heads,
        "tied to an embedding": matrix.key in embeddings,
        "in `skip`": name_fits(matrix.layer, skip),
        "low-bit already": matrix.is_low_bit,
        "bare parameters": matrix.layout.kind == "other",
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def _place(matrix: Matrix, each_layer: bool) -> Any:
    # Two layers may share a parameter, which is rounded once. A weight that is computed is rounded in each of its layers.
    return (matrix.module, matrix.storage.name) if matrix.is_computed or each_layer else matrix.key
