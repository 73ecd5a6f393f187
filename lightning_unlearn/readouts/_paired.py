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
from lightning_unlearn.readouts._packed_causal_lm import PackedCausalLMReadout

_PADDING = {"input_ids": 0, "attention_mask": 0, "labels": IGNORED}


class PairedPrediction(Prediction):
    """A :class:`Prediction` of two answers to each question.

    The first half of its examples are the preferred answers, the second half the dispreferred, in the same order.
    """


class PairedReadout(Readout):
    """Run a network on two answers to each question: the one it should prefer, and the one that must go.

    A batch is a mapping with two batches of the inner readout's kind, ``preferred`` and ``dispreferred``, of as many
    examples each; whatever else it holds is left out. Language-model batches go through the network as one.

    What is known is measured by the inner readout, on plain batches.

    Args:
        readout: How each of the two is read. Defaults to :class:`PackedCausalLMReadout`.

    Raises:
        ValueError: If a batch is not such a mapping, or the two differ in their number of examples.

    Example:
        >>> from lightning_unlearn.readouts import ClassificationReadout
        >>> batch = {name: (torch.zeros(2, 3), torch.tensor([y, y])) for y, name in enumerate(["preferred", "dispreferred"])}
        >>> said = PairedReadout(ClassificationReadout())(nn.Linear(3, 2), batch)
        >>> said.labels.tolist(), said.example.tolist(), said.batch_size
        ([0, 0, 1, 1], [0, 1, 2, 3], 4)
    """

    def __init__(self, readout: Readout | None = None) -> None:
        self.readout: Readout = PackedCausalLMReadout() if readout is None else readout

    @override
    def find_network(self, module: nn.Module) -> nn.Module:
        """What the inner readout finds."""
        return self.readout.find_network(module)

    @override
    def __call__(self, network: nn.Module, batch: Any) -> PairedPrediction:
        pair = _pair(batch, type(self).__name__)
        if isinstance(self.readout, CausalLMReadout) and all(_is_plain(part) for part in pair):
            _refuse_uneven(*(len(part["labels"]) for part in pair))
            return PairedPrediction(**vars(self.readout(network, _stacked(*pair))))
        preferred, dispreferred = (self.readout(network, part) for part in pair)
        _refuse_uneven(preferred.batch_size, dispreferred.batch_size)
        return PairedPrediction(**vars(_joined(preferred, dispreferred)))

    @override
    def for_measuring(self) -> Readout:
        """The inner readout's: probes are plain batches."""
        return self.readout.for_measuring()

    @override
    def keys(self, batch: Any) -> list[str]:
        """Keys of the preferred answers, then of the dispreferred; of a plain batch, the inner readout's."""
        if not _is_pair(batch):  # retain data: forget examples among them should still be noticed
            return self.readout.keys(batch)
        return [key for part in _pair(batch, type(self).__name__) for key in self.readout.keys(part)]


class PreferredReadout(Readout):
    """Run a network on the preferred answers alone of what :class:`PairedReadout` takes.

    With :class:`CrossEntropy` as the objective, this is fine-tuning on refusals.

    Args:
        readout: How they are read. Defaults to :class:`PackedCausalLMReadout`.

    Raises:
        ValueError: If a batch does not hold two answers.

    Example:
        >>> from lightning_unlearn.readouts import ClassificationReadout
        >>> batch = {name: (torch.zeros(2, 3), torch.tensor([y, y])) for y, name in enumerate(["preferred", "dispreferred"])}
        >>> PreferredReadout(ClassificationReadout())(nn.Linear(3, 2), batch).labels.tolist()
        [0, 0]
    """

    def __init__(self, readout: Readout | None = None) -> None:
        self.readout: Readout = PackedCausalLMReadout() if readout is None else readout

    @override
    def find_network(self, module: nn.Module) -> nn.Module:
        """What the inner readout finds."""
        return self.readout.find_network(module)

    @override
    def __call__(self, network: nn.Module, batch: Any) -> Prediction:
        return self.readout(network, _pair(batch, type(self).__name__)[0])

    @override
    def for_measuring(self) -> Readout:
        """The inner readout's: probes are plain batches."""
        return self.readout.for_measuring()

    @override
    def keys(self, batch: Any) -> list[str]:
        """Keys of the preferred answers; of a plain batch, the inner readout's."""
        return self.readout.keys(_pair(batch, type(self).__name__)[0] if _is_pair(batch) else batch)


def _is_pair(batch: Any) -> bool:
    return isinstance(batch, Mapping) and "preferred" in batch and "dispreferred" in batch


def _pair(batch: Any, who: str) -> tuple[Any, Any]:
    if _is_pair(batch):
        return batch["preferred"], batch["dispreferred"]
    found = f"a mapping with keys {list(batch)}" if isinstance(batch, Mapping) else f"a {type(batch).__name__}"
    raise ValueError(
        f"`{who}` should get a mapping with `preferred` and `dispreferred`, a batch each. Found {found}. "
        "`RefusalData` and `AlternateAnswerData` make such batches; plain ones want a plain readout."
    )


def _refuse_uneven(preferred: int, dispreferred: int) -> None:
    if preferred != dispreferred:
        raise ValueError(
            "`preferred` and `dispreferred` should hold an answer each to the same questions. Found "
            f"{preferred} and {dispreferred} examples."
        )


def _is_plain(batch: Any) -> bool:
    """Whether ``batch`` holds ids, labels and a mask of one shape, and nothing that padding could mean something to."""
    if not isinstance(batch, Mapping) or set(batch) != set(_PADDING):
        return False
    return all(isinstance(t, Tensor) and t.dim() == 2 for t in batch.values())


def _stacked(preferred: Mapping[str, Tensor], dispreferred: Mapping[str, Tensor]) -> dict[str, Tensor]:
    width = max(part["labels"].shape[1] for part in (preferred, dispreferred))
    return {
        name: torch.cat(
            [F.pad(p[name], (0, width - p[name].shape[1]), value=padding) for p in (preferred, dispreferred)]
        )
        for name, padding in _PADDING.items()
    }


def _joined(first: Prediction, second: Prediction) -> Prediction:
    kept = first.features is not None and second.features is not None
    return Prediction(
        torch.cat([first.logits, second.logits]),
        torch.cat([first.labels, second.labels]),
        torch.cat([first.example, second.example + first.batch_size]),
        first.batch_size + second.batch_size,
        torch.cat([first.features, second.features]) if kept else None,  # type: ignore[list-item]  # both are there
    )
