from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat
from typing_extensions import override

from lightning_unlearn.functional.two_samples import TwoSamples, kolmogorov_smirnov


class ForgetQuality(Metric):
    r"""Chance of truth ratios so far from a retain model's, if there were no difference: TOFU's forget quality, in [0, 1].

    The p-value of a two-sample Kolmogorov-Smirnov test of :class:`TruthRatio` on the questions that must go. 1 for the
    retain model itself. How small it can be depends on the number of questions: compare methods on the same ones.

    Attributes:
        in_words: What it means, for a reader of the report.
        higher_means_known: No: it is high where the network is as one that never knew.

    Args:
        retained: Truth ratios of the retain model, which was trained without what must go, on the same questions, ``[n]``.
        kwargs: Of torchmetrics: ``sync_on_compute=False`` for truth ratios that all processes have already.

    Raises:
        ValueError: If ``retained`` is empty; in ``compute``, if there are no truth ratios.

    Example:
        >>> import torch
        >>> metric = ForgetQuality(retained=[0.25, 0.5, 0.75])
        >>> metric.update(torch.tensor([0.75, 0.25, 0.5]))
        >>> metric.compute()
        tensor(1., dtype=torch.float64)
        >>> metric.update(torch.tensor([0.9, 0.8]))
        >>> round(metric.distance().item(), 6)  # what is tested: how far the distributions are apart
        0.4

    References:
        Maini et al., `TOFU <https://arxiv.org/abs/2401.06121>`_, 2024.
    """

    in_words: ClassVar[str] = (
        "Chance of truth ratios so far from those of a model that never knew, if there were no difference."
    )
    higher_means_known: ClassVar[bool] = False
    ratio: list[Tensor]
    full_state_update = False
    is_differentiable = False
    higher_is_better = True

    def __init__(self, retained: Sequence[float] | Tensor, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.retained: list[float] = torch.as_tensor(retained, dtype=torch.float64).flatten().tolist()
        if not self.retained:
            raise ValueError(
                "`retained` should hold truth ratios of a retain model, one that was trained without what must go. "
                "Found none. Ask it the same questions: `TruthRatio(...).scores()`."
            )
        self.add_state("ratio", default=[], dist_reduce_fx="cat")

    @override
    def update(self, ratios: Tensor) -> None:
        """Add truth ratios, one per question, ``[Q]``, in the precision of the retain model's."""
        self.ratio.append(ratios.detach().flatten().to(self.device, torch.float64))

    @override
    def compute(self) -> Tensor:
        """The p-value, ``[]`` float64."""
        return self._number(self._test().p_value)

    def distance(self) -> Tensor:
        """Largest distance between the two distributions, ``[]`` float64, in [0, 1]. Collective, as ``compute`` is."""
        with self.sync_context(should_sync=self.sync_on_compute):
            return self._number(self._test().statistic)

    def _test(self) -> TwoSamples:
        found = dim_zero_cat(self.ratio).tolist() if len(self.ratio) else []
        if not found:
            raise ValueError(
                "There should be truth ratios to compare with the retain model's. Found none. Call `update` first."
            )
        return kolmogorov_smirnov(found, self.retained)

    def _number(self, value: float) -> Tensor:
        return torch.tensor(value, dtype=torch.float64, device=self.device)

    @override
    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the truth ratios of all processes."""
        if not len(self.ratio):
            # As for `KnowledgeMetric`: the empty tensor of torchmetrics would be float32.
            self.ratio.append(torch.empty(0, dtype=torch.float64, device=self.device))
        super().sync(*args, **kwargs)
