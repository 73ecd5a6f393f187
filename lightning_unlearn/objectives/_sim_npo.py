from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from lightning_unlearn.functional.likelihood import mean_or_zero
from lightning_unlearn.functional.settings import check_finite, check_positive
from lightning_unlearn.objectives._base import Objective
from lightning_unlearn.prediction import Likelihood


class SimNPO(Objective):
    r"""Simplified negative preference optimisation: no reference model, likelihoods per token.

    .. math:: -\frac{2}{\beta} \, \mathbb{E}_i \log \sigma\Bigl(
        -\frac{\beta}{|y_i|} \log \pi_\theta(y_i | x_i) - \gamma\Bigr)

    with the mean over the examples that have supervised rows.

    Args:
        beta: Inverse temperature, positive.
        gamma: Margin, outside ``beta`` as in the paper. OpenUnlearning has it inside: its ``delta`` is ``gamma / beta``.

    Example:
        >>> import torch
        >>> from lightning_unlearn import Prediction
        >>> prediction = Prediction(torch.zeros(3, 4), torch.tensor([1, 2, 0]), torch.tensor([0, 0, 1]), batch_size=2)
        >>> SimNPO(beta=1.0)(prediction)  # 2 * log(1 + 1 / 4)
        tensor(0.4463)

    References:
        Fan et al., `Simplicity Prevails: Rethinking Negative Preference Optimization for LLM Unlearning
        <https://arxiv.org/abs/2410.07163>`_, 2024. Its public code holds three different losses under this name; this is
        the one of the paper and of the TOFU experiments.
    """

    needs_logits = False
    adds_up_over = "examples"

    def __init__(self, beta: float = 2.5, gamma: float = 0.0) -> None:
        super().__init__()
        check_positive("beta", beta)
        check_finite("gamma", gamma)
        self.beta = beta
        self.gamma = gamma

    @override
    def forward(self, student: Likelihood, reference: Likelihood | None = None) -> Tensor:
        supervised = student.supervised()
        # Mean NLL per token; `supervised` leaves out examples without rows, and with them the division by 0.
        per_token = student.example_nll()[supervised] / student.rows_per_example()[supervised]
        return 2 / self.beta * mean_or_zero(F.softplus(self.gamma - self.beta * per_token))
