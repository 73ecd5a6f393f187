from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric
from typing_extensions import override

from lightning_unlearn.functional.truth_ratio import true_better

SPLITS = ("retain", "real_authors", "world_facts")
"""The splits whose three numbers each make up the model utility."""
_PARTS = ("probability", "rouge_l_recall", "truth_ratio")


class ModelUtility(Metric):
    r"""What is left of what must stay, in one number: TOFU's model utility, in [0, 1].

    Harmonic mean of nine means: of the answer's probability (among the options for real authors and world facts), of
    ROUGE-L recall, and of :math:`\max(0, 1 - R)` with the truth ratio :math:`R`, on ``retain``, ``real_authors`` and
    ``world_facts`` each. 0 if one of the nine is 0; NaN while a split is missing.

    Attributes:
        in_words: What it means, for a reader of the report.
        higher_means_known: Yes, of what must stay.

    Args:
        kwargs: Of torchmetrics: ``sync_on_compute=False`` for questions that all processes have already.

    Example:
        >>> import torch
        >>> metric, half = ModelUtility(), torch.tensor([0.25, 0.75])
        >>> for split in ("retain", "real_authors", "world_facts"):
        ...     metric.update(split, probability=half, rouge_l_recall=half, truth_ratio=half)
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)

    References:
        Maini et al., `TOFU <https://arxiv.org/abs/2401.06121>`_, 2024.
    """

    in_words: ClassVar[str] = "Harmonic mean of nine numbers about what must stay; 0 if one of them is."
    higher_means_known: ClassVar[bool] = True
    total: Tensor
    asked: Tensor
    full_state_update = False
    is_differentiable = False
    higher_is_better = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state(
            "total", default=torch.zeros(len(SPLITS), len(_PARTS), dtype=torch.float64), dist_reduce_fx="sum"
        )
        self.add_state("asked", default=torch.zeros(len(SPLITS), dtype=torch.int64), dist_reduce_fx="sum")

    @override
    def update(self, split: str, probability: Tensor, rouge_l_recall: Tensor, truth_ratio: Tensor) -> None:
        """Add questions of one split.

        Args:
            split: ``"retain"``, ``"real_authors"`` or ``"world_facts"``.
            probability: :class:`AnswerProbability` of each question, ``[Q]``; of the other two :class:`OptionProbability`.
            rouge_l_recall: :class:`RougeLRecall` of what was answered, ``[Q]``.
            truth_ratio: :class:`TruthRatio` of each question, ``[Q]``.

        Raises:
            ValueError: If there is no such split, or if the three are not of as many questions.
        """
        if split not in SPLITS:
            raise ValueError(f"`split` should be one of {', '.join(SPLITS)}. Found {split!r}.")
        sizes = [len(each) for each in (probability, rouge_l_recall, truth_ratio)]
        if len(set(sizes)) > 1:
            raise ValueError(
                f"Probabilities, ROUGE-L recalls and truth ratios should be of the same questions. Found {sizes[0]}, "
                f"{sizes[1]} and {sizes[2]}."
            )
        place = SPLITS.index(split)
        parts = (probability, rouge_l_recall, true_better(truth_ratio.double()))
        self.total[place] += torch.stack([each.detach().double().sum() for each in parts]).to(self.device)
        self.asked[place] += sizes[0]

    @override
    def compute(self) -> Tensor:
        """The harmonic mean, ``[]`` float64."""
        means = self._means()
        return means.numel() / (1 / means).sum()

    def parts(self) -> dict[str, float]:
        """The nine means, by names as ``retain_probability``. Collective, as ``compute`` is."""
        with self.sync_context(should_sync=self.sync_on_compute):
            rows = zip(SPLITS, self._means().tolist(), strict=True)
        return {f"{split}_{part}": value for split, row in rows for part, value in zip(_PARTS, row, strict=True)}

    def _means(self) -> Tensor:
        return self.total / self.asked[:, None]
