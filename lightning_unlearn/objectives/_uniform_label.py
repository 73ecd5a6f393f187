import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.functional.likelihood import mean_or_zero
from lightning_unlearn.objectives._base import Objective
from lightning_unlearn.prediction import Likelihood, Prediction


class UniformLabel(Objective):
    r"""Train towards the uniform distribution: cross-entropy to all labels at once.

    .. math:: -\frac{1}{N} \sum_{n=1}^{N} \frac{1}{V} \sum_v \log p_n(v)

    It is what :class:`RandomLabel` is on average, without its noise. Its least value is ``log(V)``.

    Example:
        >>> said = Prediction(torch.zeros(3, 4), torch.tensor([1, 2, 0]), torch.tensor([0, 0, 1]), batch_size=2)
        >>> UniformLabel()(said)
        tensor(1.3863)
    """

    @override
    def forward(self, student: Prediction, reference: Likelihood | None = None) -> Tensor:
        logits = student.logits.to(torch.promote_types(student.logits.dtype, torch.float32))
        return mean_or_zero(logits.logsumexp(-1) - logits.mean(-1))
