from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.prediction import IGNORED, Prediction
from lightning_unlearn.readouts._base import Readout
from lightning_unlearn.readouts._causal_lm import CausalLMReadout, _labels
from lightning_unlearn.readouts._language_model import inputs_of, refuse_not_causal


class EveryPositionReadout(CausalLMReadout):
    """Every position but the last becomes a row, prompt and padding too: only to reproduce published numbers.

    OpenUnlearning's UNDIAL averages over all of them. Where nothing is supervised the label is -100, and it takes that for
    the vocabulary's entry ``V - 100``. ``Unlearn(UNDIAL(), readout=EveryPositionReadout())`` is that loss; with the default
    readout it is the corrected one. All logits are computed. Metrics and attacks still read supervised positions only.

    Raises:
        ValueError: If the vocabulary has fewer than 100 entries.
    """

    def __init__(self) -> None:
        super().__init__()

    @override
    def for_measuring(self) -> Readout:
        return CausalLMReadout()

    @override
    def __call__(self, network: nn.Module, batch: Any) -> Prediction:
        labels = _labels(batch)[:, 1:]
        logits = all_logits(network, batch)[:, :-1].flatten(0, 1)
        if (vocabulary := logits.shape[-1]) < -IGNORED:
            raise ValueError(
                "`EveryPositionReadout` should get a vocabulary of at least 100, since it takes the label -100 for entry "
                f"`V - 100`. Found `V = {vocabulary}`. Use `CausalLMReadout()`, the corrected form."
            )
        example = torch.arange(len(labels), device=labels.device).repeat_interleave(labels.shape[1])
        # The remainder turns -100 into V - 100, as indexing with a negative number does, and leaves token ids alone.
        return Prediction(logits, labels.flatten().long() % vocabulary, example, batch_size=len(labels))


def all_logits(network: nn.Module, batch: Any) -> Tensor:
    """The logits of a language model at every position of the batch, ``[B, T, V]``."""
    refuse_not_causal(network)
    logits: Tensor = network(**inputs_of(network, batch)).logits
    return logits[:, -batch["labels"].shape[1] :]  # prompt tuning puts positions of its own before the batch's
