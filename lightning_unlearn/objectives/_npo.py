from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from lightning_unlearn.functional.likelihood import mean_or_zero
from lightning_unlearn.functional.settings import check_positive
from lightning_unlearn.objectives._base import Objective
from lightning_unlearn.objectives._needs import need_likelihood
from lightning_unlearn.prediction import Likelihood


class NPO(Objective):
    r"""Negative preference optimisation: push the likelihood of each answer below the original model's.

    .. math:: \frac{2}{\beta} \, \mathbb{E}_i \log\Bigl(1 + \Bigl(
        \frac{\pi_\theta(y_i | x_i)}{\pi_\mathrm{ref}(y_i | x_i)}\Bigr)^{\beta}\Bigr)

    with the likelihood of the whole answer, the *sum* of its tokens' log-likelihoods, and the mean over the examples
    that have supervised rows. The gradient of an example shrinks as the example is
    forgotten, so the loss does not run to minus infinity.

    Args:
        beta: Inverse temperature, positive. As ``beta -> 0`` the gradient tends to that of ascent on the answers'
            log-likelihoods (:class:`GradientAscent` up to the mean over tokens).

    Example:
        >>> import torch
        >>> from lightning_unlearn import Prediction
        >>> prediction = Prediction(torch.zeros(3, 4), torch.tensor([1, 2, 0]), torch.tensor([0, 0, 1]), batch_size=2)
        >>> NPO(beta=0.1)(prediction, prediction.detach())  # 2 / beta * log 2
        tensor(13.8629)

    References:
        Zhang et al., `Negative Preference Optimization <https://arxiv.org/abs/2404.05868>`_, 2024, eq. 3.
    """

    needs_reference = True
    needs_logits = False
    adds_up_over = "examples"

    def __init__(self, beta: float = 0.1) -> None:
        super().__init__()
        check_positive("beta", beta)
        self.beta = beta

    @override
    def forward(self, student: Likelihood, reference: Likelihood | None = None) -> Tensor:
        original = need_likelihood(self, student, reference)
        # log(pi / pi_ref): NLLs enter with the opposite sign. softplus(x) = log(1 + exp(x)) without overflow.
        log_ratio = (original.example_nll() - student.example_nll())[student.supervised()]
        return 2 / self.beta * mean_or_zero(F.softplus(self.beta * log_ratio))
