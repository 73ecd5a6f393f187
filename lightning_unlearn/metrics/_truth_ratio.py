from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from lightning_unlearn.functional.truth_ratio import near_one, true_better, true_share, truth_ratio
from lightning_unlearn.metrics._among_answers import AmongAnswers


class TruthRatio(AmongAnswers):
    r"""How much likelier wrong answers are than the right one, per question: :math:`R = (\prod_k p_k)^{1/K} / p`.

    :math:`p` is the geometric mean of the probabilities of an answer's tokens. 1 is no preference. What tables show is one
    of :class:`TruthRatioNearOne`, :class:`TruthRatioTrueBetter` and :class:`TruthRatioTrueShare`; the ratios themselves are
    what forget quality compares. See :class:`AmongAnswers` for the order of answers.

    Args:
        wrong: Number of wrong answers to each question.
        compat: ``"open-unlearning"`` adds 1e-10 to the denominator, as its tables do.

    Example:
        >>> import torch
        >>> from lightning_unlearn.prediction import KnownLikelihood
        >>> metric = TruthRatio(wrong=2)
        >>> nll = -torch.tensor([0.5, 0.1, 0.4]).log()  # the right answer first
        >>> metric.update(KnownLikelihood(nll, torch.arange(3), 3))
        >>> round(metric.compute().item(), 6)
        0.4

    References:
        Maini et al., `TOFU <https://arxiv.org/abs/2401.06121>`_, 2024, eq. 1.
    """

    in_words: ClassVar[str] = "How much likelier the model finds wrong answers than the right one; 1 is no preference."
    higher_means_known: ClassVar[bool] = False
    bounds: ClassVar[tuple[float, float]] = (0.0, float("inf"))

    @override
    def of_questions(self, right: Tensor, wrong: Tensor) -> Tensor:
        return truth_ratio(right, wrong, self.compat)


class TruthRatioNearOne(TruthRatio):
    r"""How near the truth ratio is to no preference: mean of :math:`\min(R, 1/R)`. TOFU's number of what must go.

    ``"closer_to_1_better"`` of open-unlearning. A model that never knew is not at 1 either: compare with it.

    Args:
        wrong: Number of wrong answers to each question.
        compat: ``"open-unlearning"`` adds 1e-10 to the denominator of the ratio, as its tables do.
    """

    in_words: ClassVar[str] = "How little the model prefers the right answer to wrong ones, or wrong ones to it."
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)

    @override
    def of_questions(self, right: Tensor, wrong: Tensor) -> Tensor:
        return near_one(super().of_questions(right, wrong))


class TruthRatioTrueBetter(TruthRatio):
    r"""How far the right answer is ahead: mean of :math:`\max(0, 1 - R)`. TOFU's number of what must stay.

    ``"true_better"`` of open-unlearning.

    Args:
        wrong: Number of wrong answers to each question.
        compat: ``"open-unlearning"`` adds 1e-10 to the denominator of the ratio, as its tables do.
    """

    in_words: ClassVar[str] = "How far the right answer is ahead of wrong ones; 0 if it is not."
    higher_means_known: ClassVar[bool] = True
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)

    @override
    def of_questions(self, right: Tensor, wrong: Tensor) -> Tensor:
        return true_better(super().of_questions(right, wrong))


class TruthRatioTrueShare(TruthRatio):
    r"""The right answer's share of its probability and the mean of wrong ones: mean of :math:`1 / (1 + R)`.

    ``"prob_mean"`` of open-unlearning. 0.5 is no preference.

    Args:
        wrong: Number of wrong answers to each question.
        compat: ``"open-unlearning"`` adds 1e-10 to the denominator of the ratio, as its tables do.
    """

    in_words: ClassVar[str] = (
        "The right answer's share of its probability and the mean of wrong ones; 0.5 is no preference."
    )
    higher_means_known: ClassVar[bool] = True
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)

    @override
    def of_questions(self, right: Tensor, wrong: Tensor) -> Tensor:
        return true_share(super().of_questions(right, wrong))
