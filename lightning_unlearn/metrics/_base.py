from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat
from typing_extensions import override

from lightning_unlearn.prediction import Likelihood


class KnowledgeMetric(Metric):
    """What is still known: one score per example, and their mean.

    The scores are kept, since intervals need them. Those of several processes are gathered and put in the order of the data.

    Attributes:
        higher_means_known: Whether a higher score means more knowledge.
        in_words: What the metric means, in words for a reader of the report.
        bounds: Smallest and largest possible score; infinite where there is none.
        needs_logits: Whether it has to know that the readout gives likelihoods, and their logits. :class:`Loss` does not.
    """

    higher_means_known: ClassVar[bool] = True
    in_words: ClassVar[str] = "A score per example; see the metric's own documentation."
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)
    needs_logits: ClassVar[bool] = True
    score: list[Tensor]
    index: list[Tensor]
    # Otherwise `forward` of torchmetrics would update a fresh state with each batch, and number its examples from 0.
    full_state_update = True
    is_differentiable = False

    def __init__(self) -> None:
        super().__init__()
        self.add_state("score", default=[], dist_reduce_fx="cat")
        self.add_state("index", default=[], dist_reduce_fx="cat")

    @abstractmethod
    def scores_of(self, prediction: Any) -> Tensor:
        """Score of each example, ``[B]``. The caller drops scores of examples without a supervised row.

        Args:
            prediction: A :class:`Prediction`; with ``needs_logits = False`` any :class:`Likelihood`.
        """

    @override
    def update(self, prediction: Likelihood, index: Tensor | None = None) -> None:
        """Add a batch.

        Args:
            prediction: Of the network, for the batch.
            index: Number of each example in the whole data, ``[B]``. Defaults to the order of the calls.
        """
        supervised = prediction.supervised()
        if index is None:
            # Counts on from the last scored example: the numbers only have to keep the order.
            seen = next((int(i[-1]) + 1 for i in reversed(self.index) if len(i)), 0)
            index = torch.arange(seen, seen + prediction.batch_size, device=supervised.device)
        self.score.append(self.scores_of(prediction)[supervised].double())
        self.index.append(index.to(supervised.device)[supervised])

    @override
    def compute(self) -> Tensor:
        """Mean score over examples, ``[]``; NaN if there were none."""
        return self.scores().mean()

    def scores(self) -> Tensor:
        """Score of each example, ``[n]`` float64, in the order of the data."""
        if not len(self.score):
            return torch.empty(0, dtype=torch.float64)
        return dim_zero_cat(self.score)[dim_zero_cat(self.index).argsort(stable=True)]

    @override
    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the scores of all processes."""
        if not len(self.score):
            # A process without scores takes part with empty tensors. Those of torchmetrics would be float32, and processes
            # have to send the same type.
            self.score.append(torch.empty(0, dtype=torch.float64, device=self.device))
            self.index.append(torch.empty(0, dtype=torch.int64, device=self.device))
        super().sync(*args, **kwargs)
