from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from lightning_unlearn.functional.truth_ratio import option_probability
from lightning_unlearn.metrics._among_answers import AmongAnswers


class OptionProbability(AmongAnswers):
    r"""Probability of the right answer among its options, per token: :math:`p / (p + \sum_k p_k)`, in [0, 1].

    :math:`p` is the geometric mean of the probabilities of an answer's tokens. See :class:`AmongAnswers` for their order.

    Args:
        wrong: Number of wrong answers to each question.
        compat: ``"open-unlearning"`` adds 1e-10 to the denominator, as its tables do.

    Example:
        >>> import torch
        >>> from lightning_unlearn.prediction import KnownLikelihood
        >>> metric = OptionProbability(wrong=2)
        >>> nll = -torch.tensor([0.5, 0.1, 0.4]).log()  # the right answer first
        >>> metric.update(KnownLikelihood(nll, torch.arange(3), 3))
        >>> round(metric.compute().item(), 6)
        0.5

    References:
        Maini et al., `TOFU <https://arxiv.org/abs/2401.06121>`_, 2024, section 2.2.1.
    """

    in_words: ClassVar[str] = (
        "The right answer's share of its probability and that of wrong answers to the same question."
    )

    @override
    def of_questions(self, right: Tensor, wrong: Tensor) -> Tensor:
        return option_probability(right, wrong, self.compat)
