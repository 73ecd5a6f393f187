from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.functional.levels import check_ascending, even_thresholds, levels
from lightning_unlearn.functional.likelihood import mean_or_zero, sum_per_example
from lightning_unlearn.functional.settings import check_kind
from lightning_unlearn.objectives._base import Objective
from lightning_unlearn.objectives._needs import need_likelihood
from lightning_unlearn.prediction import Likelihood, Prediction
from lightning_unlearn.readouts import PairedPrediction, halves_of_examples


class ImportanceScheduled(Objective):
    r"""Give each example the objective that fits how much the original's loss pulls at it.

    .. math:: \frac{1}{B} \sum_k |B_k| \, L_k(B_k), \qquad B_k = \{x : t_k \le g(x) < t_{k+1}\}, \qquad
              g(x) = \frac{1}{|y|} \sum_{n \in x} \bigl(1 - p^\text{ref}_n(y_n)\bigr)

    :math:`g` is half the L1 norm of the gradient of the original's loss with respect to its logits: 0 for what is known by
    heart, 1 for what is foreign. So an example keeps its objective for the whole fit, whatever the network, the rank or the
    attack; and any reference will do, a cache of likelihoods as well. Good thresholds differ from model to model: without
    ``thresholds``, :class:`~lightning_unlearn.callbacks.MeasureImportance` takes quantiles of the forget data.

    A companion (:class:`PairedReadout`) follows what it is the companion of, to the same objective. An objective that knows
    nothing of pairs treats both alike, as it does by itself.

    **Unlike the authors' code**, which takes the gradient of a whole request with respect to its embeddings, with thresholds
    of 6 and 12; there the smallest get random labels, the middle NPO, and the largest NPO with a KL term. That importance
    needs a backward pass: see :func:`~lightning_unlearn.requests.fit.embedding_gradient`.

    Args:
        objectives: From the smallest :math:`g` to the largest; at least two.
        thresholds: Between them, ascending, one fewer than ``objectives``. Defaults to what is measured.

    Raises:
        ValueError: If thresholds and objectives do not fit; when it is used, if there are no thresholds.

    Example:
        >>> from lightning_unlearn.objectives import GradientAscent, CrossEntropy
        >>> from lightning_unlearn.prediction import KnownLikelihood
        >>> prediction = Prediction(torch.zeros(2, 2), torch.tensor([0, 1]), torch.tensor([0, 1]), 2)
        >>> original = KnownLikelihood(torch.tensor([0.0, 9.0]), torch.tensor([0, 1]), 2)
        >>> scheduled = ImportanceScheduled([CrossEntropy(), GradientAscent()], thresholds=[0.5])
        >>> scheduled(prediction, original).item()  # the first is learnt, the second forgotten
        0.0

    References:
        The choice of objectives of FIT, `Xu et al. <https://arxiv.org/abs/2601.21682>`_, 2026, and its code.
    """

    needs_reference = True

    def __init__(self, objectives: list[Objective], thresholds: list[float] | None = None) -> None:
        super().__init__()
        if len(objectives) < 2:
            raise ValueError(f"`objectives` should be at least two to choose from. Found {len(objectives)}.")
        for objective in objectives:
            check_kind("objectives", objective, Objective, example="NPO()")
        self.objectives = torch.nn.ModuleList(objectives)
        self.needs_reference_logits = any(o.needs_reference_logits for o in objectives)
        self.needs_logits = any(o.needs_logits for o in objectives)
        if thresholds is not None:
            check_ascending("thresholds", thresholds, len(objectives) - 1)
        self.thresholds = thresholds
        self._measured: list[float] | None = None

    @property
    def is_aimed(self) -> bool:
        """Whether it has thresholds."""
        return self.thresholds is not None or self._measured is not None

    def aim(self, importances: Tensor) -> None:
        """Take the quantiles that give each objective equally many examples.

        Args:
            importances: Of all forget examples, ``[n]``.
        """
        self._measured = even_thresholds(importances, len(self.objectives))

    def clear(self) -> None:
        """Forget what was measured in an earlier fit."""
        self._measured = None

    @override
    def forward(self, student: Prediction, reference: Likelihood | None = None) -> Tensor:
        reference = need_likelihood(self, student, reference)
        level_of = self.levels(self.importance(reference))
        if isinstance(student, PairedPrediction):
            level_of = halves_of_examples(level_of).forget.repeat(2)
        present = student.supervised()
        total = mean_or_zero(student.token_nll()) * 0  # part of the graph, also without any row
        for level, objective in enumerate(self.objectives):
            chosen = present & (level_of == level)
            if chosen.any():
                index = chosen[student.example].nonzero()[:, 0]
                share = chosen.sum() / present.sum()
                total = total + share * objective(student.rows(index), reference.rows(index))
        return total

    @staticmethod
    def importance(original: Likelihood) -> Tensor:
        """Mean over the rows of each example of one minus the probability of the label, ``[B]``; 0 without rows.

        Example:
            >>> from lightning_unlearn.prediction import KnownLikelihood
            >>> original = KnownLikelihood(torch.tensor([0.0, 0.0, 0.6931]), torch.tensor([0, 0, 1]), 2)
            >>> ImportanceScheduled.importance(original).round(decimals=3)
            tensor([0.0000, 0.5000])
        """
        missing = -torch.expm1(-original.token_nll())
        counts = original.rows_per_example().clamp_min(1)
        return sum_per_example(missing, original.example, original.batch_size) / counts

    def levels(self, importances: Tensor) -> Tensor:
        """The number of the objective of each example, ``[B]``."""
        thresholds = self.thresholds if self.thresholds is not None else self._measured
        if thresholds is None:
            raise ValueError(
                "`ImportanceScheduled` should know the thresholds between its objectives. Found none. Give `thresholds`, or "
                "add `MeasureImportance()` to the callbacks."
            )
        return levels(importances, thresholds)

    @override
    def get_extra_state(self) -> Any:
        """What was measured."""
        return self._measured

    @override
    def set_extra_state(self, state: Any) -> None:
        """Go on with it."""
        self._measured = state

    @override
    def __repr__(self) -> str:
        return f"ImportanceScheduled(objectives={list(self.objectives)!r}, thresholds={self.thresholds!r})"
