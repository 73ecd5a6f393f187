import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.functional.chunks import in_chunks
from lightning_unlearn.functional.likelihood import mean_or_zero
from lightning_unlearn.objectives._base import Objective
from lightning_unlearn.prediction import Likelihood, Prediction


class LogitMarginFlattening(Objective):
    r"""Flatten the distribution without a softmax: bring the largest score down to the mean. PDU's forget term.

    .. math:: \frac{1}{N} \sum_{n=1}^{N} \Bigl(\max_v z_n(v) - \frac{1}{V} \sum_v z_n(v)\Bigr)^2

    The labels themselves are not used, only their positions: a row holds the scores that predict the label. OpenUnlearning
    reads the scores one position further right; to reproduce its numbers, use ``readout=UnshiftedReadout()``.

    Example:
        >>> import torch
        >>> prediction = Prediction(torch.tensor([[0.0, 2.0]]), torch.tensor([0]), torch.tensor([0]), batch_size=1)
        >>> LogitMarginFlattening()(prediction)
        tensor(1.)

    References:
        Entesari et al., `Constrained Entropic Unlearning <https://arxiv.org/abs/2506.05314>`_, 2025: the forget term
        alone, without the multiplier on the retain loss.
    """

    adds_up_over = "rows"

    @override
    def forward(self, student: Prediction, reference: Likelihood | None = None) -> Tensor:
        return mean_or_zero(in_chunks(_squared_margin, student.scores))


def _squared_margin(logits: Tensor) -> Tensor:
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return (logits.amax(-1) - logits.mean(-1)) ** 2
