from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from lightning_unlearn.functional.packing import Packed, pack
from lightning_unlearn.models.layers import base_model, is_compiled
from lightning_unlearn.prediction import Prediction
from lightning_unlearn.readouts._causal_lm import CausalLMReadout, _inside, _labels, _supervised
from lightning_unlearn.readouts._language_model import refuse_not_causal
from lightning_unlearn.runtime import eval_without_grad

_PLAIN = {"input_ids", "attention_mask", "labels"}


class PackedCausalLMReadout(CausalLMReadout):
    """:class:`CausalLMReadout` without padding, and with the prompt that all rows share computed once.

    The rows of a batch become one sequence: the prompt they share, then the rest of each row. A mask lets the rest of a
    row attend to the shared prompt and to itself only, and position ids are those of the padded rows. So values and
    gradients are the same to rounding. For rows of 84 tokens, 24 of them shared and ten of padding, half the work remains.

    Packing is used only where it is exact and pays. On the first batch of each network, the packed prediction is compared
    with the plain one; if they differ (recurrence, sliding windows), this network is never packed. Nor are batches with
    inputs besides tokens and mask, or batches so large that attention over all rows costs more than packing saves. Dropout
    draws other masks than in the plain readout.

    Args:
        keep_features: As in :class:`CausalLMReadout`.
    """

    def __init__(self, keep_features: bool = False) -> None:
        super().__init__(keep_features)
        # By network: what is exact for one may not be for another. Weak, so that a readout keeps no network alive.
        self._exact: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()

    @override
    def __call__(self, network: nn.Module, batch: Any) -> Prediction:
        refuse_not_causal(network)
        labels = _labels(batch)
        may_pack = set(batch) <= _PLAIN and _is_flat(batch, labels) and _takes_masks(network, labels.shape[1])
        if not (may_pack and self._is_exact(network, batch)):
            return super().__call__(network, batch)
        packed, predicts = _packed(batch, labels)
        if not _pays(network, packed, labels):
            return super().__call__(network, batch)
        return self._read_packed(network, labels, packed, predicts)

    @override
    def unpacked(self) -> CausalLMReadout:
        """The plain readout."""
        return CausalLMReadout(self.keep_features)

    def _read_packed(self, network: nn.Module, labels: Tensor, packed: Packed, predicts: Tensor) -> Prediction:
        inputs = {
            "input_ids": packed.tokens,
            "position_ids": packed.positions,
            "attention_mask": _mask_for(network, packed.visible),
        }
        # The batch is one sequence now, [1, T]. `chosen` are its positions that predict a label; `packed.row` and
        # `packed.column` say where each of them was in the batch.
        chosen = predicts[packed.row, packed.column]
        logits, features = self._read(network, inputs, chosen[None, :-1])
        example, column = packed.row[chosen], packed.column[chosen]
        return Prediction(logits, labels[example, column + 1].long(), example, len(labels), features)

    def _is_exact(self, network: nn.Module, batch: Any) -> bool:
        """Compare the two once per network, on the first batch that could show a difference."""
        if network not in self._exact:
            with eval_without_grad(network):
                plain = super().__call__(network, batch)
                if not bool(plain.supervised()[1:].any()):
                    return False  # not remembered: the first row is packed as it is, so it cannot show a difference
                self._exact[network] = self._agrees(network, batch, plain)
        return self._exact[network]

    def _agrees(self, network: nn.Module, batch: Any, plain: Prediction) -> bool:
        labels = _labels(batch)
        try:
            packed = self._read_packed(network, labels, *_packed(batch, labels))
        except Exception:  # a network may refuse a four-dimensional mask with any error
            return False
        # Other shapes are summed in another order: allow rounding, relative to the largest logit.
        tolerance = 1e-3 if plain.logits.dtype in (torch.float32, torch.float64) else 5e-2
        close = (packed.logits - plain.logits).abs() <= tolerance * plain.logits.abs().amax().clamp_min(1)
        return torch.equal(packed.labels, plain.labels) and bool(close.all())

    def __getstate__(self) -> dict[str, Any]:
        """Weak references cannot be pickled; a copy compares anew."""
        return {"keep_features": self.keep_features}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`__getstate__` gave."""
        PackedCausalLMReadout.__init__(self, **state)


def _is_flat(batch: Any, labels: Tensor) -> bool:
    """Whether there is no mask, or one of shape ``[B, T]`` that hides padding only, and no token inside a row."""
    mask = batch.get("attention_mask")
    return mask is None or (mask.shape == labels.shape and torch.equal(mask.bool(), _inside(mask.bool())))


def _packed(batch: Any, labels: Tensor) -> tuple[Packed, Tensor]:
    predicts = F.pad(_supervised(batch, labels), (0, 1))  # the last position predicts no label
    mask = batch.get("attention_mask")
    present = torch.ones_like(predicts) if mask is None else mask.bool()
    return pack(batch["input_ids"], present, predicts), predicts


def _takes_masks(network: nn.Module, length: int) -> bool:
    """Whether attention follows a mask of ours, and is not compiled: packed lengths change with every batch."""
    config: Any = getattr(base_model(network), "config", None)
    # Flash attention does not take arbitrary masks.
    if config is None or config._attn_implementation not in ("sdpa", "eager"):
        return False
    text = config.get_text_config()  # of a model that also sees images, the language model
    # A mask of ours would replace the window's: exact only while no row is longer than the window.
    windows = [
        getattr(text, name, None) or length for name in ("sliding_window", "attention_chunk_size", "window_size")
    ]
    if min(windows) < length:
        return False
    return not is_compiled(network)


def _mask_for(network: nn.Module, visible: Tensor) -> Tensor:
    model: Any = base_model(network)
    if model.config._attn_implementation == "sdpa":
        return visible
    dtype: torch.dtype = model.dtype  # eager attention adds the mask to its scores
    return torch.zeros_like(visible, dtype=dtype).masked_fill(~visible, torch.finfo(dtype).min)


def _pays(network: nn.Module, packed: Packed, labels: Tensor) -> bool:
    """Whether fewer tokens outweigh longer attention, by the operations of one Transformer layer."""
    width = getattr(base_model(network).config, "hidden_size", 0)

    def operations(tokens: int, context: int) -> int:
        # Two per weight, of which a layer has about 12 width^2; and for attention two per pair and channel, twice:
        # for the scores, and for the weighted sum of values.
        return tokens * (24 * width**2 + 4 * context * width)

    length = packed.tokens.shape[1]
    return operations(length, length) < operations(labels.numel(), labels.shape[1])
