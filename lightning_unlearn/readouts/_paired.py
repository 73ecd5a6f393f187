from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from lightning_unlearn.prediction import IGNORED, Prediction
from lightning_unlearn.readouts._base import Readout
from lightning_unlearn.readouts._causal_lm import CausalLMReadout
from lightning_unlearn.readouts._halves import PairedPrediction
from lightning_unlearn.readouts._wrapping import WrappingReadout

_PADDING = {"input_ids": 0, "attention_mask": 0, "labels": IGNORED}


class PairedReadout(WrappingReadout):
    """Run a network on what must go, and on its companions.

    A batch is a mapping, as the inner readout takes it, with a second batch of as many examples at ``companion``:
    :class:`PairedData` makes such batches. Language-model batches go through the network in one forward pass.

    Metrics and attacks use the inner readout, and so read only what must go.

    Args:
        readout: How each of the two is read. Defaults to :class:`PackedCausalLMReadout`.

    Raises:
        ValueError: If a batch holds no companions, or not as many as examples.

    Example:
        >>> from lightning_unlearn.readouts import ClassificationReadout
        >>> part = {"x": torch.zeros(2, 3), "y": torch.tensor([0, 1])}
        >>> pair = PairedReadout(ClassificationReadout("x", "y"))(nn.Linear(3, 2), {**part, "companion": part})
        >>> pair.example.tolist(), pair.batch_size
        ([0, 1, 2, 3], 4)
    """

    @override
    def __call__(self, network: nn.Module, batch: Any) -> PairedPrediction:
        forget, companion = parts_of(batch, type(self).__name__)
        if isinstance(self.readout, CausalLMReadout) and _stackable(forget) and _stackable(companion):
            # One forward pass for both, since padding a row on the right changes none of its predictions.
            _refuse_uneven(len(forget["labels"]), len(companion["labels"]))
            return PairedPrediction(**vars(self.readout(network, _stacked(forget, companion))))
        first, second = self.readout(network, forget), self.readout(network, companion)
        _refuse_uneven(first.batch_size, second.batch_size)
        if not isinstance(first, Prediction) or not isinstance(second, Prediction):
            raise ValueError(
                f"`{type(self).__name__}` should read by logits. Found `{self.readout!r}`, which gives a "
                f"`{type(first).__name__}`. Use `ClassificationReadout()` or `CausalLMReadout()` in it."
            )
        return _joined(first, second)

    @override
    def keys(self, batch: Any) -> list[str]:
        """Keys of what must go, then of the companions; of a plain batch, the inner readout's."""
        if not has_companion(batch):  # retain data: forget examples among them should still be noticed
            return self.readout.keys(batch)
        forget, companion = parts_of(batch, type(self).__name__)
        return [*self.readout.keys(forget), *companion_keys(self.readout, companion)]


def has_companion(batch: Any) -> bool:
    """Whether ``batch`` holds a second batch, of companions."""
    return isinstance(batch, Mapping) and "companion" in batch


def parts_of(batch: Any, who: str) -> tuple[dict[str, Any], Any]:
    """Split a batch into the part that must go and its companions. ``who`` is the readout that asks, for the error."""
    if has_companion(batch):
        return {name: value for name, value in batch.items() if name != "companion"}, batch["companion"]
    found = f"a mapping with keys {list(batch)}" if isinstance(batch, Mapping) else f"a {type(batch).__name__}"
    raise ValueError(
        f"`{who}` should get a mapping with another batch at `companion`. Found {found}. `PairedData` makes such batches; "
        "plain ones want a plain readout."
    )


def companion_keys(readout: Readout, companion: Any) -> list[str]:
    """Keys of the companions, marked as such: a companion may be a row of the retain data, and that is no overlap."""
    return [f"companion {key}" for key in readout.keys(companion)]


def _refuse_uneven(forget: int, companion: int) -> None:
    if forget != companion:
        raise ValueError(
            "`companion` should hold one example to each that must go. Found "
            f"{companion} companions of {forget} examples."
        )


def _stackable(batch: Any) -> bool:
    """Whether ``batch`` holds ids, labels and a mask of one shape, and no other tensor: how to pad one is not known."""
    if not isinstance(batch, Mapping) or not set(_PADDING) <= set(batch):
        return False
    tensors = {name: value for name, value in batch.items() if isinstance(value, Tensor)}
    return set(tensors) == set(_PADDING) and len({value.shape for value in tensors.values()}) == 1


def _stacked(*parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One batch of the rows of all ``parts``, padded on the right to the longest."""
    width = max(part["labels"].shape[1] for part in parts)
    return {
        name: torch.cat([F.pad(part[name], (0, width - part[name].shape[1]), value=padding) for part in parts])
        for name, padding in _PADDING.items()
    }


def _joined(forget: Prediction, companion: Prediction) -> PairedPrediction:
    features = [part.features for part in (forget, companion) if part.features is not None]
    return PairedPrediction(
        torch.cat([forget.scores, companion.scores]),
        torch.cat([forget.labels, companion.labels]),
        torch.cat([forget.example, companion.example + forget.batch_size]),
        forget.batch_size + companion.batch_size,
        torch.cat(features) if len(features) == 2 else None,
    )
