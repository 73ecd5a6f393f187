from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat
from typing_extensions import override


class AnswerText(Metric):
    """How good an answer is that a network gave in words: one score per answer, and their mean.

    Scores are kept in the order of the calls; those of several processes stand one process after the other.

    Attributes:
        higher_means_known: Whether a higher score means more knowledge.
        in_words: What the metric means, in words for a reader of the report.
        bounds: Smallest and largest possible score.
    """

    higher_means_known: ClassVar[bool] = True
    in_words: ClassVar[str] = "A score per answer; see the metric's own documentation."
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)
    score: list[Tensor]
    full_state_update = False
    is_differentiable = False

    def __init__(self) -> None:
        super().__init__()
        self.add_state("score", default=[], dist_reduce_fx="cat")

    @abstractmethod
    def of_answer(self, said: str, right: str) -> float:
        """Score of one answer.

        Args:
            said: What the network said.
            right: What would have been right.
        """

    @override
    def update(self, said: Sequence[str], right: Sequence[str]) -> None:
        """Add answers, as text, and the right ones."""
        if len(said) != len(right):
            raise ValueError(
                f"There should be a right answer for each one. Found {len(said)} and {len(right)} right ones."
            )
        scores = [self.of_answer(*each) for each in zip(said, right, strict=True)]
        self.score.append(torch.tensor(scores, dtype=torch.float64, device=self.device))

    @override
    def compute(self) -> Tensor:
        """Mean score over answers, ``[]``; NaN if there were none."""
        return self.scores().mean()

    def scores(self) -> Tensor:
        """Score of each answer, ``[n]`` float64."""
        return dim_zero_cat(self.score) if len(self.score) else torch.empty(0, dtype=torch.float64)

    @override
    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the scores of all processes."""
        if not len(self.score):
            # As for `KnowledgeMetric`: the empty tensor of torchmetrics would be float32.
            self.score.append(torch.empty(0, dtype=torch.float64, device=self.device))
        super().sync(*args, **kwargs)
