from __future__ import annotations

from typing import Any

import torch
from torch import nn
from typing_extensions import override

from lightning_unlearn.prediction import IGNORED, Likelihood
from lightning_unlearn.readouts._causal_lm import _labels, _supervised
from lightning_unlearn.readouts._wrapping import WrappingReadout


class PredictingReadout(WrappingReadout):
    """Read hidden states where each token of an answer is predicted, one row per token: the position before it.

    A row's label is the token that it predicts, as in :class:`CausalLMReadout`; :class:`LayersReadout` by itself reads each
    token at its own position.

    Args:
        readout: Which layers are read.

    Example:
        >>> from lightning_unlearn import TinyCausalLM
        >>> from lightning_unlearn.readouts import LayersReadout
        >>> batch = {"input_ids": torch.tensor([[4, 5, 6, 7]]), "labels": torch.tensor([[-100, -100, 6, 7]])}
        >>> read = PredictingReadout(LayersReadout(["layers.0"]))(TinyCausalLM(hidden_size=32), batch)
        >>> read.features.shape, read.labels.tolist()
        (torch.Size([2, 1, 32]), [6, 7])
    """

    @override
    def __call__(self, network: nn.Module, batch: Any) -> Likelihood:
        labels = _labels(batch)
        moved = torch.full_like(labels, IGNORED)
        moved[:, :-1] = torch.where(_supervised(batch, labels), labels[:, 1:], IGNORED)
        return self.readout(network, {**batch, "labels": moved})

    @override
    def keys(self, batch: Any) -> list[str]:
        """The inner readout's."""
        return self.readout.keys(batch)
