from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from lightning_unlearn.functional.packing import Packed, pack
from lightning_unlearn.functional.row_attention import RowMask
from lightning_unlearn.models.layers import base_model, input_embedding, is_compiled
from lightning_unlearn.prediction import Prediction
from lightning_unlearn.readouts._causal_lm import CausalLMReadout, _labels, _supervised
from lightning_unlearn.readouts._language_model import refuse_not_causal
from lightning_unlearn.readouts._packing_check import PackingCheck, Sizes
from lightning_unlearn.readouts._padding import inside, present_in
from lightning_unlearn.readouts._refusals import learns_positions
from lightning_unlearn.readouts._router import adds_router_loss
from lightning_unlearn.runtime import is_sharded

_TOKENS = 16
_PLAIN = {"input_ids", "attention_mask", "labels"}


class PackedCausalLMReadout(CausalLMReadout):
    """:class:`CausalLMReadout` without padding, and with the prompt that all rows share computed once.

    The rows of a batch become one sequence: the prompt they share, then the rest of each row. A mask lets the rest of a
    row attend to the shared prompt and to itself only, and position ids are those of the rows. So values and gradients
    are the same to rounding. For rows of 84 tokens, 24 of them shared and ten of padding, half the work remains.

    **Packing is used only where it is exact and pays.** It needs a network whose hidden states depend on visible tokens
    and given positions alone. That is asked of the network, not of its name: before a batch is packed that is larger than
    all before it, rows made for this purpose, as large as the next power of two, are read in both ways
    (``PackingCheck``). If the two differ (recurrence, convolutions, local attention, positions counted by the model),
    this network is never packed again. Batches before that were smaller, and were exact.

    **It costs** four forward passes without a graph, of 3.7 times the tokens of the packed sequence, whenever packed
    lengths pass a power of two, or rows do, and at the 64th batch, the 512th, and so on, since weights that were zero at
    first may hide a difference: in a fit about as much as three to six steps on its largest batch. Where
    parameters are sharded it is asked once, for batches up to the power of two above the first one of any rank, and larger
    ones are read plainly.

    Read plainly are also: batches with inputs besides tokens and mask; rows longer than the window that a configuration
    names; batches so large that attention over all rows costs more than packing saves; networks that give a router loss,
    which is of padded rows; compiled networks. Dropout draws other masks than in the plain readout.

    Args:
        keep_features: As in :class:`CausalLMReadout`.
        logits_at_most: As in :class:`CausalLMReadout`.
    """

    @override
    def __call__(self, network: nn.Module, batch: Any) -> Prediction:
        refuse_not_causal(network)
        labels = _labels(batch)
        if not _takes_masks(network):
            return super().__call__(network, batch)
        may_pack = set(batch) <= _PLAIN and _is_flat(batch, labels)
        check = PackingCheck(CausalLMReadout().__call__, _read_rows_packed)
        # Sharded later, a network is asked anew: by all ranks together.
        how = f"{_attention(network)}, sharded" if is_sharded(network) else _attention(network)
        limits = (_longest_row(network), partial(_some_tokens, network, batch, labels), how)
        check.agree(network, Sizes(labels.numel(), labels.shape[1]), *limits)
        if not may_pack:
            return super().__call__(network, batch)
        packed, predicts = _packed(batch, labels)
        sizes = Sizes(packed.tokens.shape[1], int(packed.positions.max()) + 1 if packed.tokens.numel() else 0)
        may_pack = _pays(network, packed, labels) and sizes.row <= limits[0] and check.allows(network, sizes, *limits)
        if not may_pack:
            return super().__call__(network, batch)
        return self._read_packed(network, labels, packed, predicts)

    @override
    def unpacked(self) -> CausalLMReadout:
        """The plain readout."""
        return CausalLMReadout(self.keep_features, self._logits_at_most)

    def _read_packed(self, network: nn.Module, labels: Tensor, packed: Packed, predicts: Tensor) -> Prediction:
        inputs = {
            "input_ids": packed.tokens,
            "position_ids": packed.positions,
            "attention_mask": _mask_for(network, packed),
        }
        # The batch is one sequence now, [1, T]. `chosen` are its positions that predict a label; `packed.row` and
        # `packed.column` say where each of them was in the batch.
        chosen = predicts[packed.row, packed.column]
        read = self._read(network, inputs, chosen[None])
        example, column = packed.row[chosen], packed.column[chosen]
        return Prediction(read.logits, labels[example, column + 1].long(), example, len(labels), read.features)


def _read_rows_packed(network: nn.Module, batch: Any) -> Prediction:
    labels = _labels(batch)
    return PackedCausalLMReadout()._read_packed(network, labels, *_packed(batch, labels))


def _is_flat(batch: Any, labels: Tensor) -> bool:
    """Whether there is no mask, or one of shape ``[B, T]`` that hides padding only, and no token inside a row."""
    mask = batch.get("attention_mask")
    return mask is None or (mask.shape == labels.shape and torch.equal(mask.bool(), inside(mask.bool())))


def _packed(batch: Any, labels: Tensor) -> tuple[Packed, Tensor]:
    predicts = F.pad(_supervised(batch, labels), (0, 1))  # the last position predicts no label
    mask = batch.get("attention_mask")
    present = torch.ones_like(predicts) if mask is None else mask.bool()
    return pack(batch["input_ids"], present, predicts), predicts


def _takes_masks(network: nn.Module) -> bool:
    """Whether attention follows a mask of ours, and is not compiled: packed lengths change with every batch."""
    # Flash attention does not take arbitrary masks. A router loss is a mean over padded rows, as Hugging Face has it.
    takes = _attention(network) in ("sdpa", "eager") and not adds_router_loss(network)
    return takes and not is_compiled(network)


def _attention(network: nn.Module) -> str:
    config: Any = getattr(base_model(network), "config", None)
    return str(getattr(config, "_attn_implementation", None))


def _longest_row(network: nn.Module) -> int:
    """Of the rows that may be packed. A mask of ours would replace the window's."""
    config: Any = base_model(network).config
    text = config.get_text_config()  # of a model that also sees images, the language model
    names = ("sliding_window", "attention_chunk_size", "window_size")
    bounds = [getattr(text, name, None) for name in names]
    context = getattr(text, "max_position_embeddings", None)
    if isinstance(context, int) and learns_positions(base_model(network), context):
        bounds.append(context)
    return min((bound for bound in bounds if isinstance(bound, int) and bound > 0), default=1 << 30)


def _some_tokens(network: nn.Module, batch: Any, labels: Tensor) -> Tensor:
    """Tokens of the batch that its mask shows, and some others: rows of one token would tell nothing."""
    ids: Tensor = batch["input_ids"]
    shown = ids[present_in(batch, labels).to(ids.device)].unique()
    size = int(getattr(input_embedding(base_model(network)), "num_embeddings", 1))
    others = torch.arange(0, size, max(1, size // _TOKENS), device=ids.device, dtype=ids.dtype)
    return shown if len(shown) >= _TOKENS else torch.cat([shown, others])


def _mask_for(network: nn.Module, packed: Packed) -> Tensor:
    model: Any = base_model(network)
    visible = packed.visible
    if model.config._attn_implementation == "sdpa":
        return RowMask.of(packed) if _attends_by_rows(model.config, packed) else visible
    dtype: torch.dtype = model.dtype  # eager attention adds the mask to its scores
    return torch.zeros_like(visible, dtype=dtype).masked_fill(~visible, torch.finfo(dtype).min)


def _pays(network: nn.Module, packed: Packed, labels: Tensor) -> bool:
    """Whether fewer tokens outweigh longer attention, by the operations of one Transformer layer."""
    config: Any = base_model(network).config
    width = getattr(config, "hidden_size", 0)
    length = packed.tokens.shape[1]
    context = labels.shape[1] if _attends_by_rows(config, packed) else length

    def operations(tokens: int, context: int) -> int:
        # Two per weight, of which a layer has about 12 width^2; and for attention two per pair and channel, twice:
        # for the scores, and for the weighted sum of values.
        return tokens * (24 * width**2 + 4 * context * width)

    return operations(length, context) < operations(labels.numel(), labels.shape[1])


def _attends_by_rows(config: Any, packed: Packed) -> bool:
    # Where launches cost more than products, as on a GPU, one masked call is the cheaper one.
    return config._attn_implementation == "sdpa" and packed.visible.device.type == "cpu"
