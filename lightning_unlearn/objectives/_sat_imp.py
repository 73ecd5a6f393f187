import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.functional.likelihood import mean_or_zero
from lightning_unlearn.functional.settings import check_not_negative
from lightning_unlearn.objectives._base import Objective
from lightning_unlearn.prediction import Likelihood


class SatImp(Objective):
    r"""Ascent weighted by saturation and importance: where the label is still likely, but not beyond doubt.

    .. math:: \frac{1}{N} \sum_{n=1}^{N} \bar p_n(y_n)^{\beta_1} \, (1 - \bar p_n(y_n))^{\beta_2} \log p_n(y_n)

    with the weights taken as constants. A token known beyond doubt has weight 0: a perfectly memorised answer stays.

    The weight of forgetting is not part of the objective: it is ``weight`` of :class:`Unlearn`, by default as large as that
    of retaining. OpenUnlearning's configuration weighs forgetting 0.1 and retaining 1: use ``weight=0.1``. Its class and
    the authors' instructions have 1 and 0.1: use ``projector=WeightedSum(retain=0.1)``. The configuration looks swapped.

    Args:
        beta1: Of the saturation, not negative.
        beta2: Of the importance, not negative. At 0 this is :class:`WGA`.

    Example:
        >>> import torch
        >>> from lightning_unlearn import Prediction
        >>> prediction = Prediction(torch.zeros(1, 2), torch.tensor([1]), torch.tensor([0]), batch_size=1)
        >>> SatImp(beta1=1.0, beta2=1.0)(prediction)  # -log(2) / 4
        tensor(-0.1733)

    References:
        Yang et al., `Exploring Criteria of Loss Reweighting to Enhance LLM Unlearning
        <https://arxiv.org/abs/2505.11953>`_, 2025.
    """

    needs_logits = False
    adds_up_over = "rows"

    def __init__(self, beta1: float = 5.0, beta2: float = 1.0) -> None:
        super().__init__()
        check_not_negative("beta1", beta1)
        check_not_negative("beta2", beta2)
        self.beta1 = beta1
        self.beta2 = beta2

    @override
    def forward(self, student: Likelihood, reference: Likelihood | None = None) -> Tensor:
        nll = student.token_nll()
        log_p = -nll.detach()
        # 1 - p by -expm1(log p): for p near 1, `1 - exp(log p)` would cancel to 0.
        weight = torch.exp(self.beta1 * log_p) * (-torch.expm1(log_p)) ** self.beta2
        return -mean_or_zero(weight * nll)
