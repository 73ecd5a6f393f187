from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from lightning_unlearn.metrics._base import KnowledgeMetric
from lightning_unlearn.prediction import Prediction


class TokenNLL(KnowledgeMetric):
    """Negative log-likelihood per token of the right answer, in nats; mean over answers. Lower means more is known.

    Example:
        >>> import torch
        >>> metric = TokenNLL()
        >>> metric.update(Prediction(torch.zeros(2, 4), torch.tensor([1, 2]), torch.tensor([0, 0]), 1))
        >>> round(metric.compute().item(), 4)
        1.3863
    """

    in_words: ClassVar[str] = (
        "How surprised the model is by each token of the right answer, in nats; lower means it knows more."
    )
    higher_means_known: ClassVar[bool] = False
    bounds: ClassVar[tuple[float, float]] = (0.0, float("inf"))

    @override
    def scores_of(self, prediction: Prediction) -> Tensor:
        return prediction.example_nll() / prediction.rows_per_example().clamp_min(1)
