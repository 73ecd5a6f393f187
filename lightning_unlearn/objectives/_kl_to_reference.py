from torch import Tensor
from typing_extensions import override

from lightning_unlearn.functional.divergence import kl_divergence
from lightning_unlearn.functional.likelihood import mean_or_zero
from lightning_unlearn.objectives._base import Objective
from lightning_unlearn.objectives._needs import need_distribution
from lightning_unlearn.prediction import Likelihood, Prediction


class KLToReference(Objective):
    r"""Stay where the original model was: mean divergence of the supervised rows, in nats.

    .. math:: \frac{1}{N} \sum_{n=1}^{N} \mathrm{KL}(p^\mathrm{ref}_n \,\|\, p_n)

    For retaining. At the first step the loss and its gradient are zero: it keeps the model where it is, and teaches
    nothing. OpenUnlearning's term of the same form averages over prompt and padding positions too.

    Example:
        >>> import torch
        >>> original = Prediction(torch.tensor([[0.0, 0.0]]), torch.tensor([1]), torch.tensor([0]), batch_size=1)
        >>> student = Prediction(torch.tensor([[0.0, 1.0]]), torch.tensor([1]), torch.tensor([0]), batch_size=1)
        >>> KLToReference()(student, original)
        tensor(0.1201)
    """

    needs_reference = True
    needs_reference_logits = True
    adds_up_over = "rows"

    @override
    def forward(self, student: Prediction, reference: Likelihood | None = None) -> Tensor:
        original = need_distribution(self, student, reference)
        return mean_or_zero(kl_divergence(student.scores, original.scores))
