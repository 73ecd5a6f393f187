import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.functional.chunks import in_chunks
from lightning_unlearn.functional.likelihood import mean_or_zero
from lightning_unlearn.objectives._base import Objective
from lightning_unlearn.prediction import Likelihood, Prediction


class UniformLabel(Objective):
    r"""Train towards the uniform distribution: cross-entropy to all labels at once.

    .. math:: -\frac{1}{N} \sum_{n=1}^{N} \frac{1}{V} \sum_v \log p_n(v)

    This is the expected value of :class:`RandomLabel`, without its noise. Its minimum is ``log(V)``.

    Example:
        >>> prediction = Prediction(torch.zeros(3, 4), torch.tensor([1, 2, 0]), torch.tensor([0, 0, 1]), batch_size=2)
        >>> UniformLabel()(prediction)
        tensor(1.3863)
    """

    adds_up_over = "rows"

    @override
    def forward(self, student: Prediction, reference: Likelihood | None = None) -> Tensor:
        return mean_or_zero(in_chunks(_to_all, student.scores))


def _to_all(logits: Tensor) -> Tensor:
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    # -mean_v log p(v) = logsumexp(z) - mean(z)
    return logits.logsumexp(-1) - logits.mean(-1)
