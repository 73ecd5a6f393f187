from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from lightning_unlearn.functional.compat import Compat, check_compat
from lightning_unlearn.functional.likelihood import sum_per_example, without_last
from lightning_unlearn.functional.settings import check_whole
from lightning_unlearn.metrics._base import KnowledgeMetric
from lightning_unlearn.prediction import Prediction


class ExactMemorization(KnowledgeMetric):
    """Share of the answer's tokens that are the network's first choice, given the right tokens before them, in [0, 1].

    For a classifier, its accuracy.

    Args:
        skip_last_tokens: Leave out this many rows at the end of each example, as long as one is left. A network that knows
            nothing may still predict the end of turn. Defaults to 0.
        compat: ``"open-unlearning"`` leaves the last token out by default, as its tables do.

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

    def __init__(self, skip_last_tokens: int | None = None, compat: Compat | None = None) -> None:
        super().__init__()
        check_compat(compat)
        if skip_last_tokens is not None:
            check_whole("skip_last_tokens", skip_last_tokens, least=0)
        self.skip_last_tokens = int(compat is not None) if skip_last_tokens is None else skip_last_tokens

    @override
    def scores_of(self, prediction: Prediction) -> Tensor:
        counted, length = without_last(prediction.example, prediction.batch_size, self.skip_last_tokens)
        right = counted & (prediction.logits.argmax(-1) == prediction.labels)
        return sum_per_example(right.float(), prediction.example, prediction.batch_size) / length
