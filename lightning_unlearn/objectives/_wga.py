import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.functional.likelihood import mean_or_zero
from lightning_unlearn.functional.settings import check_not_negative
from lightning_unlearn.objectives._base import Objective
from lightning_unlearn.prediction import Likelihood


class WGA(Objective):
    r"""Weighted gradient ascent: ascend where the label is still likely.

    .. math:: \frac{1}{N} \sum_{n=1}^{N} \bar p_n(y_n)^{\beta} \log p_n(y_n)

    with the weights :math:`\bar p^\beta` taken as constants, so a row is pushed less the more it is forgotten.

    Args:
        beta: Exponent of the weights, not negative. At 0 this is :class:`GradientAscent`.

    Example:
        >>> import torch
        >>> from lightning_unlearn import Prediction
        >>> prediction = Prediction(torch.zeros(1, 4), torch.tensor([1]), torch.tensor([0]), batch_size=1)
        >>> WGA(beta=1.0)(prediction)  # -log(4) / 4
        tensor(-0.3466)

    References:
        Wang et al., `Rethinking LLM Unlearning Objectives <https://arxiv.org/abs/2502.19301>`_, 2025.
    """

    needs_logits = False
    adds_up_over = "rows"

    def __init__(self, beta: float = 1.0) -> None:
        super().__init__()
        check_not_negative("beta", beta)
        self.beta = beta

    @override
    def forward(self, student: Likelihood, reference: Likelihood | None = None) -> Tensor:
        nll = student.token_nll()
        weight = torch.exp(-self.beta * nll.detach())
        return -mean_or_zero(weight * nll)
