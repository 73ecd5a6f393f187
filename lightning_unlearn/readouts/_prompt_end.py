from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.prediction import IGNORED, Likelihood
from lightning_unlearn.readouts._base import Readout
from lightning_unlearn.readouts._causal_lm import _labels, _supervised
from lightning_unlearn.readouts._wrapping import WrappingReadout


class PromptEndReadout(WrappingReadout):
    """Read hidden states at the end of each prompt, one row per example: where the answer is decided, and not yet said.

    The position is that which predicts the first supervised token; that token is the row's label. A state at an answer's
    own tokens would give the answer away to any probe, since it was read there.

    Args:
        readout: Which layer is read.

    Example:
        >>> from lightning_unlearn import TinyCausalLM
        >>> from lightning_unlearn.readouts import HiddenStateReadout
        >>> batch = {"input_ids": torch.tensor([[4, 5, 6, 7]]), "labels": torch.tensor([[-100, -100, 6, 7]])}
        >>> read = PromptEndReadout(HiddenStateReadout("layers.0"))(TinyCausalLM(hidden_size=32), batch)
        >>> read.features.shape, read.labels.tolist()
        (torch.Size([1, 32]), [6])
    """

    def __init__(self, readout: Readout) -> None:
        super().__init__(readout)

    @override
    def __call__(self, network: nn.Module, batch: Any) -> Likelihood:
        return self.readout(network, {**batch, "labels": _at_prompt_ends(batch, _labels(batch))})

    @override
    def keys(self, batch: Any) -> list[str]:
        """The inner readout's."""
        return self.readout.keys(batch)


def _at_prompt_ends(batch: Any, labels: Tensor) -> Tensor:
    """The first supervised token of each row, as the label of the position before it, ``[B, T]``."""
    supervised = _supervised(batch, labels)
    first = supervised & (supervised.cumsum(1) == 1)
    moved = torch.full_like(labels, IGNORED)
    moved[:, :-1] = torch.where(first, labels[:, 1:], IGNORED)
    return moved
