from torch import Tensor
from typing_extensions import override

from lightning_unlearn.functional.likelihood import mean_or_zero
from lightning_unlearn.objectives._base import Objective
from lightning_unlearn.prediction import Likelihood


class GradientAscent(Objective):
    r"""Raise the loss of what must go: minus :class:`CrossEntropy`.

    .. math:: \frac{1}{N} \sum_{n=1}^{N} \log p_n(y_n)

    It has no minimum: sooner or later it destroys the model, so use it inside :class:`Bounded`.

    Example:
        >>> import torch
        >>> from lightning_unlearn import Prediction
        >>> prediction = Prediction(torch.zeros(3, 4), torch.tensor([1, 2, 0]), torch.tensor([0, 0, 1]), batch_size=2)
        >>> GradientAscent()(prediction)
        tensor(-1.3863)

    References:
        Jang et al., `Knowledge Unlearning for Mitigating Privacy Risks in Language Models
        <https://arxiv.org/abs/2210.01504>`_, 2023, for language models.
    """

    needs_logits = False
    needs_only_mean = True
    adds_up_over = "rows"

    @override
    def forward(self, student: Likelihood, reference: Likelihood | None = None) -> Tensor:
        return -mean_or_zero(student.token_nll())
