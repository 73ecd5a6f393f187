from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.readouts import Readout
from lightning_unlearn.runtime import eval_mode
from lightning_unlearn.selectors._base import Selector
from lightning_unlearn.selectors._losses import By, check_by, example_loss, mean_nll, means, needed
from lightning_unlearn.selectors._squared_gradients import add_squares_

_PUBLISHED = 10.0
_MOST = torch.finfo(torch.float32).max


class FisherRatio(Selector):
    r"""How much more a weight matters for what must go than for everything, by the diagonal of the Fisher information.

    .. math:: s = \frac{I_f}{I_D}, \qquad I_X = \frac{1}{|X|} \sum_{x \in X} (\nabla_\theta \operatorname{NLL}(x))^2

    :math:`D` is all data, forget and retain. With ``AtLeast(alpha)`` the choice is that of Selective Synaptic Dampening,
    whose :math:`\alpha` is 10. What matters for neither scores 0. Costs one pass over both, and two copies of the weights
    in float32.

    - **The forget share bounds the ratio.** Where forget data make up a share :math:`\rho` of all, no score exceeds
      :math:`1/\rho`: ``AtLeast(10)`` chooses nothing from a share of a tenth on, and a warning says so. With
      ``over="retain"`` there is no such bound; the ranking, and so what ``TopShare`` chooses, is the same.
    - **By batch, size and order count.** The published code squares the mean gradient of a batch. Then scores depend on
      which examples share a batch, and how many: data sorted by class give others than shuffled data. ``per="example"``
      depends on neither, and takes a pass of its batch for each example.

    Args:
        per: What :math:`x` is: a batch, as published, or one example.
        over: Compare with all data, or with retain data alone.
        by: Score each element, or whole tensors, by the ratio of their mean informations.

    Raises:
        ValueError: When it scores, without forget data, retain data or a readout.

    Example:
        >>> from lightning_unlearn.readouts import ClassificationReadout
        >>> layer = nn.Linear(2, 2, bias=False)
        >>> _ = layer.weight.data.zero_()
        >>> here, there = ((torch.tensor([[*x]]), torch.tensor([0])) for x in ([1.0, 1.0], [0.0, 1.0]))
        >>> selector, readout = FisherRatio(over="retain", per="example"), ClassificationReadout()
        >>> found = selector.scores(layer, forget=[here], retain=[there], readout=readout)["weight"]
        >>> found[0] > 1e30, found[0, 1]  # the first input is used by what must go alone
        (tensor([ True, False]), tensor(1.))

    References:
        Foster et al., `Fast Machine Unlearning Without Retraining Through Selective Synaptic Dampening
        <https://arxiv.org/abs/2308.07707>`_, 2024, eqs. 3 and 4, and its code.
    """

    needs_forget = True
    needs_retain = True

    def __init__(
        self, per: Literal["batch", "example"] = "batch", over: Literal["all", "retain"] = "all", by: By = "element"
    ) -> None:
        if per not in ("batch", "example"):
            raise ValueError(f'`per` should be "batch" or "example". Found `per = {per!r}`.')
        if over not in ("all", "retain"):
            raise ValueError(f'`over` should be "all" or "retain". Found `over = {over!r}`.')
        check_by(by)
        self.per, self.over, self.by = per, over, by

    @override
    def scores(
        self,
        network: nn.Module,
        *,
        forget: Sequence[Any] = (),
        retain: Sequence[Any] = (),
        readout: Readout | None = None,
        engine: GradientEngine | None = None,
    ) -> dict[str, Tensor]:
        readout = needed(self, readout, forget=forget, retain=retain)
        engine = GradientEngine(network) if engine is None else engine
        with eval_mode(network), torch.enable_grad():
            here, n = self._squares(network, forget, readout, engine)
            there, m = self._squares(network, retain, readout, engine)
        if self.over == "all":
            _warn_of_share(n / max(n + m, 1))
            there = {name: square + there[name] if name in there else square for name, square in here.items()}
            m += n
        if self.by == "tensor":
            here, there = means(here), means(there)
        return {name: _ratio(square / n, there[name] / m if name in there else None) for name, square in here.items()}

    def _squares(
        self, network: nn.Module, batches: Sequence[Any], readout: Readout, engine: GradientEngine
    ) -> tuple[dict[str, Tensor], int]:
        """The sum of squared gradients, by name, and their number."""
        total: dict[str, Tensor] = {}
        count = add_squares_(
            [total], network, batches, lambda batch: self._losses(network, batch, readout, engine), engine
        )
        return total, count

    def _losses(
        self, network: nn.Module, batch: Any, readout: Readout, engine: GradientEngine
    ) -> Iterator[Callable[[Any], Tensor]]:
        if self.per == "batch":
            yield mean_nll(network, readout)
            return
        with torch.no_grad():
            supervised = engine.forward(lambda b: readout(network, b).supervised(), batch)
        for number in supervised.nonzero().flatten().tolist():
            yield partial(example_loss, network, readout, number)

    def __repr__(self) -> str:
        return f"FisherRatio(per={self.per!r}, over={self.over!r}, by={self.by!r})"


def _ratio(here: Tensor, there: Tensor | None) -> Tensor:
    # 0 / 0 should choose nothing; more than 0 / 0 matters for what must go alone, and should be chosen first.
    ratio = here / (torch.zeros_like(here) if there is None else there)
    return torch.where(here > 0, ratio, torch.zeros_like(here)).clamp(max=_MOST)


def _warn_of_share(share: float) -> None:
    if share * _PUBLISHED >= 1:
        rank_zero_warn(
            f"`FisherRatio` should have a small forget share of all data. Found {share:.0%}, at which no score exceeds "
            f"{1 / share:.3g}: the published threshold of {_PUBLISHED:g} chooses nothing. Use `TopShare`, more retain data, "
            'or `over="retain"`.'
        )
