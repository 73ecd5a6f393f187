"""Padding of a language-model batch: where it is, and how it is kept from changing anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_unlearn.models.layers import base_model, input_embedding
from lightning_unlearn.prediction import IGNORED


def mask_of(batch: Mapping[str, Any], labels: Tensor) -> Tensor | None:
    """Which positions the batch's mask shows, ``[B, T]`` bool; ``None`` if it has none of that shape."""
    mask = batch.get("attention_mask")
    return mask.bool() if isinstance(mask, Tensor) and mask.shape == labels.shape else None


def inside(mask: Tensor) -> Tensor:
    """All positions from the first to the last unmasked one, ``[B, T]`` bool: a mask may also hide tokens between them."""
    begun, goes_on = mask.cumsum(1) > 0, mask.flip(1).cumsum(1).flip(1) > 0
    return begun & goes_on


def present_in(batch: Mapping[str, Any], labels: Tensor) -> Tensor:
    """Which positions are not padding, ``[B, T]`` bool."""
    mask = mask_of(batch, labels)
    if mask is not None:
        return mask
    # Without a mask, nothing tells padding from text. Attention is causal, so tokens after the last label change no
    # prediction, and count as padding. A row without labels counts in full.
    supervised = labels != IGNORED
    later = supervised.flip(1).cumsum(1).flip(1) > 0
    return later | ~supervised.any(1, keepdim=True)


def hidden_ids(batch: Mapping[str, Any], ids: Tensor) -> Tensor | None:
    """Which tokens change nothing: neither shown by the mask nor supervised. ``None`` if this cannot be said."""
    labels = batch.get("labels")
    if isinstance(labels, Tensor) and labels.shape == ids.shape:
        return ~present_in(batch, labels) & (labels == IGNORED)
    mask = mask_of(batch, ids)
    return None if mask is None else ~mask


def known_ids(network: nn.Module, batch: Mapping[str, Any]) -> Mapping[str, Any]:
    """``batch``, with 0 in place of hidden tokens that the network has no embedding for.

    A pad token is often added to a tokenizer and not to the network. Padding changes nothing, whatever its number.
    """
    ids = batch.get("input_ids")
    size = getattr(input_embedding(base_model(network)), "num_embeddings", None)
    if size is None or not isinstance(ids, Tensor) or ids.dim() != 2 or ids.is_floating_point():
        return batch
    hidden = hidden_ids(batch, ids)
    if hidden is None:
        return batch
    # Without a question to the device, which would have to be waited for; and never in the user's own tensor.
    return {**batch, "input_ids": ids.masked_fill(hidden.to(ids.device) & ((ids < 0) | (ids >= size)), 0)}


def padded_behind(batch: Mapping[str, Any], labels: Tensor) -> Mapping[str, Any]:
    """``batch`` with its rows moved to the left, so that no padding stands before a token.

    Padding behind a token changes no causal prediction: of none that counts positions, decays with distance, or keeps a
    state. Padding before it does, in many networks. Tensors without an axis as long as the rows, such as pixels, stay as
    they are. A batch with others that are not one value per token is left as it is: its rows could not be moved together.
    """
    mask = mask_of(batch, labels)
    tensors = {name: value for name, value in batch.items() if isinstance(value, Tensor) and value.dim() > 1}
    moving = {name: value for name, value in tensors.items() if labels.shape[1] in value.shape[1:]}
    if mask is None or not labels.numel() or any(value.shape != labels.shape for value in moving.values()):
        return batch
    within = inside(mask)
    first = within.int().argmax(1)
    if not bool(first.any()):
        return batch
    columns = torch.arange(labels.shape[1], device=labels.device)
    behind = columns >= within.sum(1, keepdim=True)
    places = (columns + first[:, None]).remainder(labels.shape[1])
    moved = {name: value.gather(1, places.to(value.device)) for name, value in moving.items()}
    moved["labels"] = moved["labels"].masked_fill(behind, IGNORED)
    return {**batch, **moved}


def positions_of(network: nn.Module, batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """Positions for a network that chooses its frequencies by the last of them: padding is not to be the last.

    Empty for all other networks, batches without a mask, and where the batch has positions.
    """
    ids = batch.get("input_ids")
    if not isinstance(ids, Tensor) or "position_ids" in batch or not _frequencies_by_length(network):
        return {}
    mask = mask_of(batch, ids)
    if mask is None or not bool(mask[:, 0].all()):
        return {}
    columns = torch.arange(ids.shape[1], device=ids.device)
    return {"position_ids": columns.minimum(inside(mask).sum(1, keepdim=True) - 1).clamp_min(0)}


def _frequencies_by_length(network: nn.Module) -> bool:
    config: Any = getattr(base_model(network), "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    settings = getattr(text, "rope_parameters", None)
    kinds = (
        [settings, *settings.values()] if isinstance(settings, Mapping) else []
    )  # of all layers, or by kind of layer
    return any(isinstance(k, Mapping) and k.get("rope_type") in ("dynamic", "longrope") for k in kinds)
