from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from lightning_unlearn.metrics._base import KnowledgeMetric
from lightning_unlearn.prediction import Prediction


class AnswerProbability(KnowledgeMetric):
    r"""Probability of the right answer, length-normalised: :math:`\exp(-\frac{1}{|y|} \sum_t -\log p(y_t))`, in [0, 1].

    For a classifier, the probability of the label.

    Example:
        >>> import torch
        >>> metric = AnswerProbability()
        >>> metric.update(Prediction(torch.zeros(2, 4), torch.tensor([1, 2]), torch.tensor([0, 0]), 1))
        >>> metric.compute()
        tensor(0.2500, dtype=torch.float64)

    References:
        Maini et al., `TOFU <https://arxiv.org/abs/2401.06121>`_, 2024, section 2.2.1, "Probability".
    """

    in_words: ClassVar[str] = (
        "The probability the model gives to the right answer, as the geometric mean over its tokens."
    )

    @override
    def scores_of(self, prediction: Prediction) -> Tensor:
        return (-prediction.example_nll() / prediction.rows_per_example().clamp_min(1)).exp()
