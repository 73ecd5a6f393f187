from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.edits._base import Edit
from lightning_unlearn.edits._needs import logits_of, needed
from lightning_unlearn.engine import GradientEngine, with_local
from lightning_unlearn.functional.likelihood import mean_or_zero
from lightning_unlearn.functional.settings import check_not_negative, check_positive
from lightning_unlearn.readouts import Readout
from lightning_unlearn.runtime import eval_mode, local
from lightning_unlearn.selectors._squared_gradients import add_squares_


class Dampen(Edit):
    r"""Selective Synaptic Dampening: shrink the weights that matter far more for what must go than for all data.

    .. math:: \theta \leftarrow \theta \cdot \min\bigl(\lambda I_D / I_f, \, 1\bigr)
        \quad \text{where } I_f > \alpha I_D, \qquad I_X = \frac{1}{B_X} \sum_{b \in X} (\nabla_\theta L_b)^2

    with the mean loss :math:`L_b` of each of the :math:`B_X` batches. :math:`D` is retain and forget data, in this order.
    All other weights stay, bit for bit. A selected weight is multiplied by less than :math:`\lambda / \alpha`, so that the
    minimum never binds for :math:`\lambda \le \alpha`; what matters for forget data alone becomes zero. Costs a pass over
    both, and two copies of the weights in float32.

    - **The forget share bounds what can be selected.** If forget data are a share :math:`\rho` of all batches, no ratio
      exceeds :math:`1 / \rho`: nothing is selected where :math:`\rho \alpha \ge 1`, and a warning says so.
    - **Batches count.** The square is that of a batch's mean gradient. Size and order of batches change the edit: give both
      in the configuration, and compare runs of the same alone.

    Args:
        alpha: How much more a weight has to matter for it to be selected. Published for ResNets: 10. Others need another
            value, and the published one can destroy single classes.
        dampening: :math:`\lambda`; 0 sets what is selected to zero.

    Raises:
        ValueError: When called, without forget data, retain data or a readout.

    Example:
        >>> from lightning_unlearn.readouts import ClassificationReadout
        >>> layer = nn.Linear(2, 2, bias=False)
        >>> here, there = ((torch.tensor([[*x]]), torch.tensor([0])) for x in ([1.0, 1.0], [0.0, 1.0]))
        >>> edit, readout = Dampen(alpha=1.5, dampening=0.1), ClassificationReadout()
        >>> record = edit(layer, forget=[here], retain=[there], readout=readout)
        >>> record.elements  # the two weights of the first input, which what must go uses alone
        2

    References:
        Foster et al., `Fast Machine Unlearning Without Retraining Through Selective Synaptic Dampening
        <https://arxiv.org/abs/2308.07707>`_, 2024, eqs. 4 to 6, and its code.
    """

    needs_forget: ClassVar[bool] = True
    needs_retain: ClassVar[bool] = True

    def __init__(self, alpha: float = 10.0, dampening: float = 1.0) -> None:
        check_positive("alpha", alpha)
        check_not_negative("dampening", dampening)
        self.alpha, self.dampening = alpha, dampening

    def loss(self, network: nn.Module, readout: Readout, batch: Any) -> Tensor:
        """What the importance of a weight is the importance for, ``[]``: the mean loss of a batch."""
        return mean_or_zero(readout(network, batch).token_nll())

    def amount(self, gradient: Tensor) -> Tensor:
        """What a gradient says about importance: its square."""
        return gradient.square()

    @override
    def new_values(
        self,
        network: nn.Module,
        *,
        forget: Sequence[Any],
        retain: Sequence[Any],
        readout: Readout | None,
        engine: GradientEngine,
    ) -> Iterator[tuple[str, Tensor]]:
        readout = needed(self, readout, forget=forget, retain=retain)
        self._warn_of_share(len(forget) / (len(forget) + len(retain)))
        here, everywhere = self._importances(network, forget, retain, readout, engine)
        for name, param in network.named_parameters():
            if name in here:
                value = self._dampened(local(param.detach()), local(here[name]), local(everywhere[name]))
                yield name, with_local(param, value)

    def _importances(
        self, network: nn.Module, forget: Sequence[Any], retain: Sequence[Any], readout: Readout, engine: GradientEngine
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        def losses(batch: Any) -> list[Callable[[Any], Tensor]]:
            return [lambda b: self.loss(network, readout, b)]

        here: dict[str, Tensor] = {}
        everywhere: dict[str, Tensor] = {}
        with eval_mode(network), torch.enable_grad():
            # Retain first, as the authors': in another order the sums would differ in their last bits.
            m = add_squares_([everywhere], network, retain, losses, engine, self.amount)
            n = add_squares_([everywhere, here], network, forget, losses, engine, self.amount)
        for total, number in ((here, n), (everywhere, n + m)):
            for square in total.values():
                square.div_(number)
        return here, everywhere

    def _dampened(self, weight: Tensor, here: Tensor, everywhere: Tensor) -> Tensor:
        chosen = here > everywhere * self.alpha
        factor = (everywhere * self.dampening / here).clamp(max=1)
        return torch.where(chosen, weight * factor.to(weight.dtype), weight)

    def _warn_of_share(self, share: float) -> None:
        if share * self.alpha >= 1:
            rank_zero_warn(
                f"`{type(self).__name__}` should have a small forget share of all batches. Found {share:.0%}, at which no "
                f"ratio exceeds {1 / share:.3g}: `alpha = {self.alpha:g}` selects nothing. Lower `alpha`, or give more "
                "retain data."
            )


class DampenUnlabelled(Dampen):
    r"""Dampening without labels: what matters is how much a weight moves the outputs.

    As :class:`Dampen`, with another importance:

    .. math:: I_X = \frac{1}{B_X} \sum_{b \in X} \Bigl| \nabla_\theta \frac{1}{|b|} \sum_{x \in b} \|z(x)\|^2 \Bigr|

    of the logits :math:`z`. Labels say at most which rows are looked at.

    Args:
        alpha: How much more a weight has to matter. The first power, and not the square, of a gradient: smaller than there.
        dampening: :math:`\lambda`.

    Example:
        >>> DampenUnlabelled(alpha=2.0).settings()
        {'alpha': 2.0, 'dampening': 1.0}

    References:
        Foster et al., `Loss-Free Machine Unlearning <https://arxiv.org/abs/2402.19308>`_, 2024, and its code.
    """

    @override
    def loss(self, network: nn.Module, readout: Readout, batch: Any) -> Tensor:
        """The mean squared length of the logits."""
        return mean_or_zero(logits_of(self, network, readout, batch).square().sum(-1))

    @override
    def amount(self, gradient: Tensor) -> Tensor:
        """Its size."""
        return gradient.abs()
