from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from lightning_unlearn.models.layers import Layout, Matrix, name_fits, output_heads, placed_matrices, plain_name


def chosen_layouts(network: nn.Module, patterns: Sequence[str] | None, who: str) -> dict[int, tuple[str, Layout]]:
    """Names and layouts of the trained matrices that ``patterns`` fit, by the ``id`` of their parameter.

    Args:
        network: With the parameters that the optimizer trains.
        patterns: ``fnmatch`` patterns of a full name, or of any part of it between dots; ``None`` for all but embeddings
            and output heads. A shared matrix is chosen if one of its names fits.
        who: Name of the caller, for errors.

    Raises:
        NotImplementedError: If one of them is a factor of an adapter.
        ValueError: If there is none.
    """
    placed = [m for m in placed_matrices(network) if not m.is_computed and m.parameters[0].requires_grad]
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
            f"`{who}` should find a trained matrix {which}. Found none; the trained matrices are: {there}. "
            f"`{who}(pattern=...)` chooses by full names, or parts of them between dots."
        )
    return {id(m.parameters[0]): (plain_name(m.name), m.layout) for m in chosen}


def _of_names(placed: Sequence[Matrix], patterns: Sequence[str]) -> Iterator[Matrix]:
    fitting = {m.key for m in placed if name_fits(plain_name(m.name), patterns)}
    return (m for m in placed if m.key in fitting)


def _all_but_tables(network: nn.Module, placed: Sequence[Matrix]) -> Iterator[Matrix]:
    heads = set(output_heads(network))
    tables = {m.key for m in placed if m.layout.kind == "embedding" or m.module in heads}
    return (m for m in placed if m.key not in tables)
