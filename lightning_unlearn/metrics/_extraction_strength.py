from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.functional.compat import Compat, check_compat
from lightning_unlearn.functional.likelihood import place_in_example, without_last
from lightning_unlearn.functional.settings import check_whole
from lightning_unlearn.metrics._base import KnowledgeMetric
from lightning_unlearn.prediction import Prediction


class ExtractionStrength(KnowledgeMetric):
    r"""The largest share at the end of the answer that the network completes by itself, given the beginning; in [0, 1].

    .. math:: 1 - \frac{k}{|y|}, \quad k = \min \{k : \arg\max_v p_t(v) = y_t \text{ for all } t \geq k\}

    where each prediction is given the right tokens before it. It is 1 if every token is the first choice, and 0 if the last
    one is not.

    Args:
        skip_last_tokens: Leave out this many rows at the end of each example, as long as one is left. A network that knows
            nothing may still predict the end of turn, and would score ``1 / |y|`` for it. Defaults to 0.
        compat: ``"open-unlearning"`` gives the numbers of its tables: the last token is left out by default, and the score
            cannot fall below ``1 / |y|``, as if the last token that counts were always right.

    Example:
        >>> prediction = Prediction(torch.eye(2)[[0, 1, 1]], torch.tensor([1, 1, 1]), torch.tensor([0, 0, 0]), 1)
        >>> metric = ExtractionStrength()
        >>> metric.update(prediction)
        >>> metric.compute()
        tensor(0.6667, dtype=torch.float64)

    References:
        Carlini et al., `Extracting Training Data from Large Language Models <https://arxiv.org/abs/2012.07805>`_, 2021,
        for the idea; as a measure of unlearning Wang et al., `Towards Effective Evaluations and Comparisons for LLM
        Unlearning Methods <https://arxiv.org/abs/2406.09179>`_, 2025.
    """

    in_words: ClassVar[str] = (
        "The share of the right answer that the model completes by itself, word for word, once it is given the beginning."
    )

    def __init__(self, skip_last_tokens: int | None = None, compat: Compat | None = None) -> None:
        super().__init__()
        check_compat(compat)
        if skip_last_tokens is not None:
            check_whole("skip_last_tokens", skip_last_tokens, least=0)
        self.skip_last_tokens = int(compat is not None) if skip_last_tokens is None else skip_last_tokens
        self.compat = compat

    @override
    def scores_of(self, prediction: Prediction) -> Tensor:
        place = place_in_example(prediction.example)
        counted, length = without_last(prediction.example, prediction.batch_size, self.skip_last_tokens)
        wrong = counted & (prediction.logits.argmax(-1) != prediction.labels)
        # k of the formula: one more than the place of the last wrong row, since all that follow are right; 0 without any.
        given = torch.zeros_like(length).scatter_reduce(0, prediction.example, (place + 1) * wrong, "amax")
        if self.compat is not None:
            given = given.clamp_max(length - 1)
        return 1 - given.double() / length
