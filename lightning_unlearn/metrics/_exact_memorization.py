from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from lightning_unlearn.functional.likelihood import sum_per_example
from lightning_unlearn.metrics._base import KnowledgeMetric
from lightning_unlearn.prediction import Prediction


class ExactMemorization(KnowledgeMetric):
    """Share of the answer's tokens that are the network's first choice, given the right tokens before them, in [0, 1].

    For a classifier, its accuracy.

    Example:
        >>> import torch
        >>> metric = ExactMemorization()
        >>> metric.update(Prediction(torch.eye(2), torch.tensor([0, 0]), torch.tensor([0, 0]), 1))
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)

    References:
        Tirumala et al., `Memorization Without Overfitting <https://arxiv.org/abs/2205.10770>`_, 2022, definition 1.
    """

    in_words: ClassVar[str] = "The share of the right answer's tokens that are the model's first choice."

    @override
    def scores_of(self, prediction: Prediction) -> Tensor:
        right = (prediction.logits.argmax(-1) == prediction.labels).float()
        return sum_per_example(right, prediction.example, prediction.batch_size) / (
            prediction.rows_per_example().clamp_min(1)
        )
