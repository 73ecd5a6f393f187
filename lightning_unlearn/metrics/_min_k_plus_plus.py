from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.functional.chunks import in_chunks
from lightning_unlearn.functional.likelihood import mean_of_lowest
from lightning_unlearn.functional.settings import check_between
from lightning_unlearn.metrics._base import KnowledgeMetric
from lightning_unlearn.prediction import Prediction


class MinKPlusPlus(KnowledgeMetric):
    r"""As :class:`MinK`, of log-probabilities that are standardised by what the network expects at that place.

    .. math:: \frac{\log p(y_t) - \mu_t}{\sigma_t}, \quad
        \mu_t = \sum_v p_t(v) \log p_t(v), \quad \sigma_t^2 = \sum_v p_t(v) (\log p_t(v) - \mu_t)^2

    A token that was trained on tends to be a mode of the distribution, whatever its probability. Where all tokens are
    equally likely, :math:`\sigma_t = 0` and the value is 0. From the logits of the shared pass, in chunks of rows.

    Args:
        k: Share of the tokens, in (0, 1].

    Example:
        >>> metric = MinKPlusPlus(k=1.0)
        >>> logits = torch.tensor([[0.75, 0.25]]).log()
        >>> metric.update(Prediction(logits, torch.tensor([0]), torch.tensor([0]), 1))
        >>> round(metric.compute().item(), 4)  # sqrt(0.25 / 0.75)
        0.5774

    References:
        Zhang et al., `Min-K%++ <https://arxiv.org/abs/2404.02936>`_, 2025, eq. 4.
    """

    in_words: ClassVar[str] = (
        "How likely the model finds the most surprising tokens of the right answer, compared with what it expects there."
    )
    bounds: ClassVar[tuple[float, float]] = (-float("inf"), float("inf"))

    def __init__(self, k: float = 0.4) -> None:
        super().__init__()
        check_between("k", k, 0, 1)
        self.k = k

    @override
    def scores_of(self, prediction: Prediction) -> Tensor:
        standardised = in_chunks(_standardised, prediction.logits.detach(), prediction.labels)
        return mean_of_lowest(standardised.double(), prediction.example, prediction.batch_size, self.k)


def _standardised(logits: Tensor, labels: Tensor) -> Tensor:
    log_p = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    p = log_p.exp()
    # A token that is ruled out has log-probability -inf and weight 0, and should add 0, not NaN.
    mean = torch.where(p > 0, p * log_p, 0.0).sum(-1, keepdim=True)
    variance = torch.where(p > 0, p * (log_p - mean).square(), 0.0).sum(-1)
    distance = log_p.gather(-1, labels[:, None])[:, 0] - mean[:, 0]
    # Equally likely tokens differ by rounding only, which must not be divided by itself.
    is_flat = variance <= (1e-6 * mean[:, 0]) ** 2
    return torch.where(is_flat, 0.0, distance / variance.sqrt())
