from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from lightning_unlearn.functional.likelihood import sum_per_example
from lightning_unlearn.metrics._base import KnowledgeMetric
from lightning_unlearn.prediction import Prediction


class AnswerLogProbability(KnowledgeMetric):
    r"""Log-probability that the network says the whole right answer, end of turn included: :math:`\sum_t \log p(y_t)`, nats.

    A logarithm, since the probability of a long answer is smaller than any float; summed in float64.

    Example:
        >>> import torch
        >>> metric = AnswerLogProbability()
        >>> metric.update(Prediction(torch.zeros(2, 4), torch.tensor([1, 2]), torch.tensor([0, 0]), 1))
        >>> round(metric.compute().item(), 4)
        -2.7726
    """

    in_words: ClassVar[str] = "The logarithm of the probability that the model says the right answer, word for word."
    bounds: ClassVar[tuple[float, float]] = (-float("inf"), 0.0)

    @override
    def scores_of(self, prediction: Prediction) -> Tensor:
        return -sum_per_example(prediction.token_nll().double(), prediction.example, prediction.batch_size)
