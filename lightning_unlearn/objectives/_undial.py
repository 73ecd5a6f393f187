from torch import Tensor
from typing_extensions import override

from lightning_unlearn.functional.divergence import adjusted_cross_entropy
from lightning_unlearn.functional.likelihood import mean_or_zero
from lightning_unlearn.functional.settings import check_not_negative
from lightning_unlearn.objectives._base import Objective
from lightning_unlearn.objectives._needs import need_distribution
from lightning_unlearn.prediction import Likelihood, Prediction


class UNDIAL(Objective):
    r"""Unlearning by distillation on adjusted logits: imitate the original model with the label's score lowered.

    .. math:: -\frac{1}{N} \sum_{n=1}^{N} \sum_v q_n(v) \log p_n(v), \quad
        q_n = \mathrm{softmax}(z^\mathrm{ref}_n - \beta \, \mathrm{onehot}(y_n))

    The target is fixed, so training converges instead of running away. OpenUnlearning's form averages over prompt and
    padding positions too, and lowers the vocabulary's entry ``V - 100`` there: to reproduce its numbers, use
    ``readout=EveryPositionReadout()``.

    Args:
        beta: What is subtracted from the label's score, not negative. At 0 this is plain distillation. OpenUnlearning's
            experiments use 10.

    Example:
        >>> import torch
        >>> original = Prediction(torch.zeros(1, 2), torch.tensor([1]), torch.tensor([0]), batch_size=1)
        >>> UNDIAL(beta=0.0)(original, original)  # log 2
        tensor(0.6931)

    References:
        Dong et al., `UNDIAL: Self-Distillation with Adjusted Logits for Robust Unlearning in Large Language Models
        <https://arxiv.org/abs/2402.10052>`_, 2025.
    """

    needs_reference = True
    needs_reference_logits = True
    adds_up_over = "rows"

    def __init__(self, beta: float = 10.0) -> None:
        super().__init__()
        check_not_negative("beta", beta)
        self.beta = beta

    @override
    def forward(self, student: Prediction, reference: Likelihood | None = None) -> Tensor:
        original = need_distribution(self, student, reference)
        rows = adjusted_cross_entropy(student.scores, original.scores, student.labels, shift=-self.beta)
        return mean_or_zero(rows)
