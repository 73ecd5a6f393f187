from __future__ import annotations

from collections.abc import Iterator, Sequence

from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from lightning_unlearn.models.layers import Layout, Matrix, name_fits, output_heads, placed_matrices, plain_name


def chosen_layouts(network: nn.Module, patterns: Sequence[str] | None, who: str) -> dict[int, tuple[str, Layout]]:
    """Names and layouts of the matrices that ``patterns`` fit, by the ``id`` of their parameter.

    Frozen ones are among them, since they may be unfrozen later. A warning says so if no other is.

    Args:
        network: With the parameters that the optimizer trains, now or later.
        patterns: ``fnmatch`` patterns of a full name, or of any part of it between dots; ``None`` for all but embeddings
            and output heads. A shared matrix is chosen if one of its names fits.
        who: Name of the caller, for errors.

    Raises:
        NotImplementedError: If one of them is a trained factor of an adapter.
        ValueError: If there is none.
    """
    placed = [m for m in placed_matrices(network) if not m.is_computed and (m.factor_of is None or _is_trained(m))]
    chosen = list(_all_but_tables(network, placed) if patterns is None else _of_names(placed, patterns))
    for matrix in chosen:
        if matrix.factor_of is not None:
            raise NotImplementedError(
                f"`{who}` should see gradients of whole weights. Found `{plain_name(matrix.name)}`, a factor of an adapter: "
                "the gradients of the factors B and A are not that of their product. Train the weights themselves, without "
                f"`lora`; or choose others, `{who}(pattern=...)`."
            )
    if not chosen:
        there = ", ".join(f"`{plain_name(m.name)}`" for m in placed[:20]) or "none"
        which = "other than embeddings and output heads" if patterns is None else f"whose name fits {list(patterns)}"
        raise ValueError(
            f"`{who}` should find a matrix {which}. Found none; the matrices are: {there}. "
            f"`{who}(pattern=...)` chooses by full names, or parts of them between dots."
        )
    if not any(map(_is_trained, chosen)):
        rank_zero_warn(
            f"`{who}` should find a trained matrix. Found `{plain_name(chosen[0].name)}` and {len(chosen) - 1} others, all "
            f"frozen: nothing is changed until they are unfrozen. `{who}(pattern=...)` chooses others."
        )
    return {id(m.parameters[0]): (plain_name(m.name), m.layout) for m in chosen}


def _is_trained(matrix: Matrix) -> bool:
    return matrix.parameters[0].requires_grad


def _of_names(placed: Sequence[Matrix], patterns: Sequence[str]) -> Iterator[Matrix]:
    fitting = {m.key for m in placed if name_fits(plain_name(m.name), patterns)}
    return (m for m in placed if m.key in fitting)


def _all_but_tables(network: nn.Module, placed: Sequence[Matrix]) -> Iterator[Matrix]:
    heads = set(output_heads(network))
    tables = {m.key for m in placed if m.layout.kind == "embedding" or m.module in heads}
    return (m for m in placed if m.key not in tables)
