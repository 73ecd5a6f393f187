from torch import Tensor
from typing_extensions import override

from lightning_unlearn.functional.divergence import js_divergence
from lightning_unlearn.functional.likelihood import mean_or_zero
from lightning_unlearn.objectives._base import Objective
from lightning_unlearn.objectives._needs import need_distribution
from lightning_unlearn.prediction import Likelihood, Prediction


class JSDToReference(Objective):
    r"""Stay where the original model was, by a divergence of at most log 2: the retain term of :class:`JensUn`.

    .. math:: \frac{1}{N} \sum_{n=1}^{N} \mathrm{JSD}(p^\mathrm{ref}_n, p_n)

    **At the first step the loss and its gradient are zero**, as those of :class:`KLToReference`: it keeps the model
    where it is, and teaches nothing. Near the start it is a quarter of that divergence. A row that has moved far away
    has little gradient left, and is not brought back.

    Example:
        >>> import torch
        >>> original = Prediction(torch.tensor([[0.0, 0.0]]), torch.tensor([1]), torch.tensor([0]), batch_size=1)
        >>> student = Prediction(torch.tensor([[0.0, 1.0]]), torch.tensor([1]), torch.tensor([0]), batch_size=1)
        >>> JSDToReference()(student, original)
        tensor(0.0285)

    References:
        Singh et al., `Unlearning That Lasts <https://arxiv.org/abs/2509.02820>`_ (JensUn), 2025, and its public code.
    """

    needs_reference = True
    needs_reference_logits = True
    adds_up_over = "rows"

    @override
    def forward(self, student: Prediction, reference: Likelihood | None = None) -> Tensor:
        original = need_distribution(self, student, reference)
        return mean_or_zero(js_divergence(student.scores, original.scores))
