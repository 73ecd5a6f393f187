from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.engine import GradientEngine, move_, sum_by_scope
from lightning_unlearn.functional.settings import check_positive
from lightning_unlearn.readouts import Readout
from lightning_unlearn.runtime import KeptTensors, drop_copies, eval_mode, local, uninterrupted
from lightning_unlearn.selectors._base import Selector, selectable
from lightning_unlearn.selectors._losses import mean_nll, needed

_MOST = torch.finfo(torch.float32).max


class ModuleDrift(Selector):
    r"""How much further a tensor moves when the network trains on what must go than when it trains on what must stay.

    .. math:: s_l = \frac{\xi_l(\text{forget})}{\xi_l(\text{retain})}, \qquad
              \xi_l(X) = \frac{1}{|\theta_l|} \bigl\| \theta_l^X - \theta_l \bigr\|_1

    where :math:`\theta^X` is reached by one plain SGD step of ``lr`` for each batch of :math:`X`, in evaluation mode. The
    weights are put back from a copy, bit for bit. Scores are of whole tensors. A tensor that moves in neither scores 0.
    Costs one pass over both, and one copy of the weights that can be trained.

    **Rebuilt from descriptions** of the paper, which compares drift across tasks with drift within one; what it does with
    the ratio is not known. Under LoRA the factors are scored: where one starts at zero, the other one first moves in the
    second step.

    Args:
        lr: Learning rate of the steps. In bf16 weights, small steps vanish in rounding.

    Raises:
        ValueError: When it scores, without forget data, retain data or a readout.

    Example:
        >>> from lightning_unlearn.readouts import ClassificationReadout
        >>> layer = nn.Linear(1, 2)
        >>> forget, retain = ([(torch.tensor([[x]]), torch.tensor([0]))] for x in (4.0, 1.0))
        >>> found = ModuleDrift().scores(layer, forget=forget, retain=retain, readout=ClassificationReadout())
        >>> bool(found["weight"] > found["bias"])  # of its gradient, the input is a factor
        True

    References:
        The module drift of `Forgetting-Prioritized Finetuning <https://arxiv.org/abs/2304.04158>`_, 2023.
    """

    needs_forget = True
    needs_retain = True

    def __init__(self, lr: float = 1e-2) -> None:
        check_positive("lr", lr)
        self.lr = lr

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
        named = selectable(network)
        params: list[Tensor] = list(named.values())
        with eval_mode(network), torch.enable_grad():
            here, there = (self._drift(network, x, params, readout, engine) for x in (forget, retain))
        # 0 / 0 should choose nothing; more than 0 / 0 should be chosen first.
        ratio = torch.where(here > 0, here / there, torch.zeros_like(here)).clamp(max=_MOST).float()
        return dict(zip(named, ratio.unbind(), strict=True))

    def _drift(
        self,
        network: nn.Module,
        batches: Sequence[Any],
        params: Sequence[Tensor],
        readout: Readout,
        engine: GradientEngine,
    ) -> Tensor:
        """Mean absolute change of each of ``params`` by a pass over ``batches``, ``[len(params)]`` float64."""
        loss = mean_nll(network, readout)
        drop_copies(network)
        kept = KeptTensors(params)
        try:
            for batch in batches:
                row, _ = engine.row(loss, [batch], params)
                move_(engine, params, row, -self.lr)
            moved = [(local(p).detach().double() - before.double()).abs().sum() for p, before in kept.pairs()]
        finally:
            with uninterrupted():
                drop_copies(network)
                kept.put_back()
        sums = sum_by_scope(moved, params, range(len(params)), len(params), engine.sharding_group)
        return sums / sums.new_tensor([p.numel() for p in params]).clamp_min(1)

    def __repr__(self) -> str:
        return f"ModuleDrift(lr={self.lr})"
