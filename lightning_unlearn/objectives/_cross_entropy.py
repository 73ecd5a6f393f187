from torch import Tensor
from typing_extensions import override

from lightning_unlearn.functional.likelihood import mean_or_zero
from lightning_unlearn.objectives._base import Objective
from lightning_unlearn.prediction import Likelihood


class CrossEntropy(Objective):
    r"""Ordinary training: the mean negative log-likelihood of the supervised rows, in nats.

    .. math:: -\frac{1}{N} \sum_{n=1}^{N} \log p_n(y_n)

    The usual choice for retaining. On refusals in place of the answers ("I don't know"), it forgets as well.

    Example:
        >>> import torch
        >>> from lightning_unlearn import Prediction
        >>> prediction = Prediction(torch.zeros(3, 4), torch.tensor([1, 2, 0]), torch.tensor([0, 0, 1]), batch_size=2)
        >>> CrossEntropy()(prediction)
        tensor(1.3863)
    """

    needs_logits = False
    needs_only_mean = True
    adds_up_over = "rows"

    @override
    def forward(self, student: Likelihood, reference: Likelihood | None = None) -> Tensor:
        return mean_or_zero(student.token_nll())
