from typing import Any

from torch import nn
from typing_extensions import override

from lightning_unlearn.prediction import IGNORED, Prediction
from lightning_unlearn.readouts._base import Readout
from lightning_unlearn.readouts._causal_lm import CausalLMReadout, _labels
from lightning_unlearn.readouts._every_position import all_logits


class UnshiftedReadout(CausalLMReadout):
    """Read *at* each supervised token instead of before it: only to reproduce published numbers.

    OpenUnlearning's PDU does so. It leaves out the position that predicts the first token of an answer, and includes the
    position of its last token, which predicts no label. ``Unlearn(LogitMarginFlattening(), readout=UnshiftedReadout())``
    is its forget loss; with the default readout it is the corrected one. The label of a row is the token that was read
    there, not the next one, so objectives that use labels make no sense here. All logits are computed. Metrics and attacks
    still read the positions that predict.
    """

    def __init__(self) -> None:
        super().__init__()

    @override
    def for_measuring(self) -> Readout:
        return CausalLMReadout()

    @override
    def __call__(self, network: nn.Module, batch: Any) -> Prediction:
        labels = _labels(batch)
        here = labels != IGNORED
        return Prediction(
            all_logits(network, batch)[here], labels[here].long(), here.nonzero()[:, 0], batch_size=len(labels)
        )
