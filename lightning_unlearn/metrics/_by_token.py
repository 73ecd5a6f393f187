from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.metrics._base import KnowledgeMetric
from lightning_unlearn.prediction import Likelihood, Prediction


class ByToken(KnowledgeMetric):
    """One score per supervised token, and not per example, in the order of the data.

    For audits that look at tokens one by one, such as :class:`Calibration`. Not for :class:`Measure`, which would take the
    scores for those of examples.
    """

    @abstractmethod
    def of_tokens(self, prediction: Prediction, index: Tensor) -> Tensor:
        """Score of each row, ``[N]``.

        Args:
            prediction: Of a batch.
            index: Number of each row's example in the whole data, ``[N]``.
        """

    @override
    def scores_of(self, prediction: Any) -> Tensor:
        raise NotImplementedError(f"`{type(self).__name__}` should score tokens. Found a question about examples.")

    @override
    def update(self, prediction: Likelihood, index: Tensor | None = None) -> None:
        assert isinstance(prediction, Prediction)
        assert index is not None  # an audit gives both
        rows = index.to(prediction.example.device)[prediction.example]
        self.score.append(self.of_tokens(prediction, rows).double())
        self.index.append(rows)


class TokenConfidence(ByToken):
    """The probability of the token that the network finds most probable."""

    in_words: ClassVar[str] = "How sure the model is of the token that it would say."

    @override
    def of_tokens(self, prediction: Prediction, index: Tensor) -> Tensor:
        return prediction.logits.float().softmax(-1).amax(-1)


class TokenHit(ByToken):
    """Whether that token is the right one."""

    in_words: ClassVar[str] = "How often the token that the model would say is the right one."

    @override
    def of_tokens(self, prediction: Prediction, index: Tensor) -> Tensor:
        return (prediction.logits.argmax(-1) == prediction.labels).float()


class TokenExample(ByToken):
    """The number of the example that a token is of."""

    in_words: ClassVar[str] = "The number of an example."

    @override
    def of_tokens(self, prediction: Prediction, index: Tensor) -> Tensor:
        return index.to(torch.float64)
