"""Batches that would end in an index error or, on a GPU, in a device assert that ends the process."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_unlearn.models.layers import base_model
from lightning_unlearn.readouts._padding import hidden_ids
from lightning_unlearn.runtime import Misfit


def refuse_foreign_tokens(network: nn.Module, batch: Any) -> None:
    """Refuse tokens that a language model has no embedding for, and rows longer than its learned positions.

    A model whose positions are computed runs on longer rows, badly: that is warned about. Other networks and batches pass.
    Cheap where ``batch`` is on the CPU; on a GPU it waits for the device.

    Raises:
        Misfit: If a token id is not in the vocabulary, or a row does not fit.
    """
    if not isinstance(batch, Mapping):
        return
    refuse_foreign_tokens(network, batch.get("companion"))
    model, ids = base_model(network), batch.get("input_ids")
    if not isinstance(ids, Tensor) or ids.dim() != 2 or not ids.numel() or torch.is_floating_point(ids):
        return
    if not hasattr(model, "get_input_embeddings") or not hasattr(model, "config"):
        return
    size = getattr(model.get_input_embeddings(), "num_embeddings", None)  # type: ignore[operator]
    if size is not None:
        _refuse_ids(ids, size, hidden_ids(batch, ids))
    context = getattr(model.config, "max_position_embeddings", None)
    if isinstance(context, int) and ids.shape[1] > context > 0:
        _refuse_length(model, batch, ids, context)


def refuse_foreign_labels(prediction: Any) -> None:
    """Refuse labels without a logit; predictions without logits pass.

    Raises:
        Misfit: If a label is negative, or not below the number of logits.
    """
    logits, labels = getattr(prediction, "logits", None), getattr(prediction, "labels", None)
    # Predictions of hidden states hold logits of width 0: their objectives read none.
    if not isinstance(logits, Tensor) or not isinstance(labels, Tensor) or not labels.numel() or not logits.numel():
        return
    wrong = labels[(labels < 0) | (labels >= logits.shape[-1])]
    if wrong.numel():
        raise Misfit(
            f"Labels should be from 0 to {logits.shape[-1] - 1}: the network gives {logits.shape[-1]} logits. Found "
            f"{_some(wrong)} ({wrong.numel()} of {labels.numel()} labels). Number the classes from 0, and give the network "
            "an output for each."
        )


def _refuse_ids(ids: Tensor, size: int, hidden: Tensor | None) -> None:
    foreign = (ids < 0) | (ids >= size)
    # Hidden ones change nothing: the network is given others in their place.
    wrong = ids[foreign if hidden is None else foreign & ~hidden.to(ids.device)]
    if wrong.numel():
        raise Misfit(
            f"Token ids should be from 0 to {size - 1}: the network's embedding has {size} rows. Found {_some(wrong)} "
            f"({wrong.numel()} of {ids.numel()} ids). Use the tokenizer that belongs to the network; if tokens were added "
            "to it, call `network.resize_token_embeddings(len(tokenizer))` first."
        )


def _refuse_length(model: nn.Module, batch: Mapping[str, Any], ids: Tensor, context: int) -> None:
    mask = batch.get("attention_mask")
    fits = isinstance(mask, Tensor) and mask.shape == ids.shape
    lengths = mask.bool().sum(dim=1) if fits else torch.full((len(ids),), ids.shape[1])  # type: ignore[union-attr]
    found = f"{int((lengths > context).sum())} of {len(ids)} rows longer, the longest of {int(lengths.max())}"
    said = f"Rows should have at most the network's {context} positions. Found {found}, in a batch {ids.shape[1]} wide."
    if learns_positions(model, context):
        raise Misfit(f"{said} Shorten them: `Encoding(..., max_length={context})`.")
    if int(lengths.max()) > context:
        warnings.warn(
            f"{said} Beyond them it was not trained. Shorten them: `Encoding(..., max_length={context})`.", stacklevel=2
        )


def learns_positions(model: nn.Module, context: int) -> bool:
    """Whether an embedding beside that of the tokens has a row for each position; OPT and others have a few more."""
    tokens = model.get_input_embeddings()  # type: ignore[operator]
    tables = (m for m in model.modules() if isinstance(m, nn.Embedding) and m is not tokens)
    return any(context <= table.num_embeddings <= context + 4 for table in tables)


def _some(wrong: Tensor) -> str:
    values = wrong.unique().tolist()
    return ", ".join(str(value) for value in values[:5]) + (", ..." if len(values) > 5 else "")
