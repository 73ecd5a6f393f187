from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat
from typing_extensions import override

from lightning_unlearn.functional.compat import Compat, check_compat
from lightning_unlearn.functional.settings import check_whole
from lightning_unlearn.metrics._base import KnowledgeMetric
from lightning_unlearn.prediction import Likelihood


class AmongAnswers(KnowledgeMetric):
    """How the right answer stands among wrong answers to the same question: one score per question, and their mean.

    Each answer is an example. Those of a question follow each other in the order of the data, the right one first: of the
    examples ``0`` to ``wrong`` the first is right, the next question begins at ``1 + wrong``. Batches may cut a question in
    two, and processes may share one.

    Args:
        wrong: Number of wrong answers to each question.
        compat: ``"open-unlearning"`` adds 1e-10 to denominators, as its tables do.

    Raises:
        ValueError: In ``compute``, if an answer of a question is missing.
    """

    needs_logits = False

    def __init__(self, wrong: int = 5, compat: Compat | None = None) -> None:
        super().__init__()
        check_whole("wrong", wrong)
        check_compat(compat)
        self.wrong, self.compat = wrong, compat

    @abstractmethod
    def of_questions(self, right: Tensor, wrong: Tensor) -> Tensor:
        """Score of each question, ``[Q]``.

        Args:
            right: Mean negative log-likelihood per token of the right answers, ``[Q]`` float64.
            wrong: The same of the wrong answers, ``[Q, wrong]``.
        """

    @override
    def scores_of(self, prediction: Any) -> Tensor:
        likelihood: Likelihood = prediction
        return likelihood.example_nll().double() / likelihood.rows_per_example().clamp_min(1)

    @override
    def scores(self) -> Tensor:
        """Score of each question, ``[Q]`` float64, in the order of the data."""
        nll = super().scores()
        if not len(nll):
            return nll
        answers = 1 + self.wrong
        place = dim_zero_cat(self.index).sort(stable=True).values
        first = place[::answers]
        whole = len(place) % answers == 0 and bool((first % answers == 0).all())
        if not whole or not torch.equal(place, (first[:, None] + torch.arange(answers).to(place)).flatten()):
            raise ValueError(
                f"Each question should have {answers} answers in a row, the right one and {self.wrong} wrong ones. Found "
                f"{len(place)} answers with a supervised token, and some questions without all of theirs. Give all of them, "
                "in order, or another `wrong`."
            )
        of_questions = nll.view(-1, answers)
        return self.of_questions(of_questions[:, 0], of_questions[:, 1:])
