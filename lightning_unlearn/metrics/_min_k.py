from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from lightning_unlearn.functional.likelihood import mean_of_lowest
from lightning_unlearn.functional.settings import check_between
from lightning_unlearn.metrics._base import KnowledgeMetric
from lightning_unlearn.prediction import Likelihood


class MinK(KnowledgeMetric):
    r"""Mean log-probability of the least likely tokens of the right answer, in nats. Higher: more likely trained on.

    A text that was not trained on has a few tokens that surprise. Taken are the share ``k`` of lowest
    :math:`\log p_\theta(y_t \mid y_{<t})`, rounded down, at least one. An answer of one token has its log-probability. The
    end of turn counts as a token; it is seldom among the lowest.

    Args:
        k: Share of the tokens, in (0, 1]. MUSE and open-unlearning take 0.4, the authors 0.2.

    Example:
        >>> import torch
        >>> from lightning_unlearn.prediction import KnownLikelihood
        >>> metric = MinK(k=0.5)
        >>> metric.update(KnownLikelihood(torch.tensor([1.0, 4.0, 2.0, 0.0]), torch.tensor([0, 0, 0, 0]), 1))
        >>> metric.compute()
        tensor(-3., dtype=torch.float64)

    References:
        Shi et al., `Detecting Pretraining Data from Large Language Models <https://arxiv.org/abs/2310.16789>`_, 2024, eq. 1.
    """

    in_words: ClassVar[str] = (
        "How likely the model finds those tokens of the right answer that surprise it most, as a log-probability."
    )
    bounds: ClassVar[tuple[float, float]] = (-float("inf"), 0.0)

    def __init__(self, k: float = 0.4) -> None:
        super().__init__()
        check_between("k", k, 0, 1)
        self.k = k

    @override
    def scores_of(self, prediction: Likelihood) -> Tensor:
        return mean_of_lowest(-prediction.token_nll().double(), prediction.example, prediction.batch_size, self.k)
