from torch import Tensor
from typing_extensions import override

from lightning_unlearn.functional.divergence import top_k_kl_divergence
from lightning_unlearn.functional.likelihood import mean_or_zero
from lightning_unlearn.functional.settings import check_whole
from lightning_unlearn.objectives._base import Objective
from lightning_unlearn.objectives._needs import need_distribution
from lightning_unlearn.prediction import Likelihood, Prediction


class TopKKL(Objective):
    r""":class:`KLToReference` over the original model's ``k`` likeliest tokens of each row: memory for ``k``, not ``V``.

    .. math:: \frac{1}{N} \sum_{n=1}^{N} \mathrm{KL}(\tilde p^\mathrm{ref}_n \,\|\, \tilde p_n)

    with both distributions renormalised to those tokens. It keeps their proportions, and does not notice how much
    probability the network moves to other tokens.

    Args:
        k: At least 2. The size of the vocabulary, or more, is the full divergence.

    Example:
        >>> import torch
        >>> label, example = torch.tensor([1]), torch.tensor([0])
        >>> original = Prediction(torch.tensor([[0.0, 0.0, -9.0]]), label, example, batch_size=1)
        >>> student = Prediction(torch.tensor([[0.0, 1.0, 9.0]]), label, example, batch_size=1)
        >>> TopKKL(k=2)(student, original)
        tensor(0.1201)

    References:
        The public code of MoDE, `arXiv 2512.03125 <https://arxiv.org/abs/2512.03125>`_, 2025, whose distillation keeps
        256 tokens; its temperature is left out.
    """

    needs_reference = True
    needs_reference_logits = True
    adds_up_over = "rows"

    def __init__(self, k: int = 256) -> None:
        super().__init__()
        check_whole("k", k, least=2, why=": a single token, renormalised, is certain")
        self.k = k

    @override
    def forward(self, student: Prediction, reference: Likelihood | None = None) -> Tensor:
        original = need_distribution(self, student, reference)
        return mean_or_zero(top_k_kl_divergence(student.scores, original.scores, k=self.k))
