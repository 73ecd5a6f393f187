from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.data import EpochRows, Order, RandomOrder, RowSet, in_order
from lightning_unlearn.engine import GradientEngine, Row
from lightning_unlearn.functional.fisher_conflict import fisher_conflict
from lightning_unlearn.functional.settings import check_between, check_positive
from lightning_unlearn.models import read_weights, without_prefix
from lightning_unlearn.readouts import Readout, choose_readout
from lightning_unlearn.runtime import eval_mode
from lightning_unlearn.selectors._base import selectable
from lightning_unlearn.selectors._losses import example_loss


class FisherConflict(Order):
    r"""Forget the examples whose gradients stand most in the way of what is learnt, and leave the others.

    Forget examples are ranked by what one step of learning them adds to the Fisher-weighted squared distance from the
    optimum :math:`\theta^*` of the retain data:

    .. math:: s(x) = \sum_i F_i \bigl[(\theta_0 - \eta \nabla \ell(x) - \theta^*)_i^2 - (\theta_0 - \theta^*)_i^2\bigr]

    with :math:`F` the diagonal of the Fisher information of the retain data at :math:`\theta^*`, per example. Without
    ``optimum``, :math:`\theta^* = \theta_0`: a score is then high where an example is entangled with what must stay. Visited
    are the ``share`` of the highest scores, in the order of :class:`RandomOrder`.

    Scored once, before the fit, on the CPU in every process: a pass of its batch for each example of both sets. A resumed
    fit scores again, and has to start from the same network.

    **Reconstructed.** Neither the full text nor the code of the paper could be had; two summaries agree on the steps.

    Args:
        share: Which part of the forget examples is visited, larger than 0.
        lr: :math:`\eta`.
        optimum: Weights of the network trained on what must stay: a safetensors file, a Hugging Face folder, or a Lightning
            checkpoint. Parameters that it does not hold are taken to be there already.
        readout: How to run the network. Defaults to what fits the module.

    Attributes:
        conflicts: The score of each forget row of the last fit.

    Raises:
        ValueError: Before the fit, without a :class:`ForgetRetainData`, or without weights, as those of ``configure_model``.

    Example:
        >>> order = FisherConflict(share=0.25)  # ForgetRetainData(retain=..., forget=..., order=order)

    References:
        The selection of samples in `Graceful Forgetting in Generative Language Models
        <https://arxiv.org/abs/2505.19715>`_ (LWF), 2025.
    """

    def __init__(
        self, share: float = 0.5, lr: float = 1e-4, optimum: str | None = None, readout: Readout | None = None
    ) -> None:
        check_positive("share", share)
        check_between("share", share, 0, 1)
        check_positive("lr", lr)
        self.share, self.lr, self.optimum, self.readout = share, lr, optimum, readout
        self.conflicts: list[float] = []

    @override
    def prepare(self, forget: RowSet, retain: RowSet, trainer: pl.Trainer | None) -> None:
        data: Any = getattr(trainer, "datamodule", None)
        module = getattr(trainer, "lightning_module", None)
        if module is None or not hasattr(data, "forget") or not any(True for _ in module.parameters()):
            raise ValueError(
                "`FisherConflict` should find a network with weights and a `ForgetRetainData` before the fit. Found "
                f"`{type(data).__name__}` and `{type(module).__name__}`. Build the network in `__init__`, and use "
                "`trainer.fit(module, datamodule=ForgetRetainData(..., order=FisherConflict()))`."
            )
        readout = choose_readout(module) if self.readout is None else self.readout
        network = readout.find_network(module)
        # Not the fit's loaders: these are in order, and leave random generators alone.
        found = self.scores(network, in_order(data.forget.loader()), in_order(data.retain.loader()), readout)
        # As the first process sees it: another might round a score the other way.
        self.conflicts = trainer.strategy.broadcast(found)  # type: ignore[union-attr]
        kept = self._kept(len(forget))
        rank_zero_info(f"`FisherConflict` visits {len(kept)} of {len(forget)} forget examples.")

    @override
    def rows(self, forget: RowSet, retain: RowSet, *, seed: int, epoch: int) -> EpochRows:
        kept = self._kept(len(forget))
        found = RandomOrder().rows(RowSet(kept, forget.batch_size), retain, seed=seed, epoch=epoch)
        return EpochRows([kept[row] for row in found.forget], found.retain)

    def scores(self, network: nn.Module, forget: Iterable[Any], retain: Iterable[Any], readout: Readout) -> list[float]:
        """The score of each forget example, in order. The network is left as it was.

        Args:
            network: As it is before the fit.
            forget: Batches of what must go, on its device.
            retain: Batches of what must stay.
            readout: How to run it.
        """
        params = list(selectable(network).values())
        start = [p.detach().clone() for p in params]
        optimum = self._optimum(network)
        try:
            for p, there in zip(params, optimum, strict=True):
                p.data.copy_(there)
            fisher = _fisher(network, retain, readout)
        finally:
            for p, before in zip(params, start, strict=True):
                p.data.copy_(before)
        drift = [there.to(p).double() - p.detach().double() for p, there in zip(params, optimum, strict=True)]
        return [fisher_conflict(g, fisher, drift, self.lr) for g in _gradients(network, forget, readout)]

    def _kept(self, count: int) -> list[int]:
        if not self.conflicts:
            return list(range(count))
        ranked = sorted(range(count), key=lambda row: -self.conflicts[row])
        return sorted(ranked[: max(1, round(self.share * count))])

    def _optimum(self, network: nn.Module) -> list[Tensor]:
        params = selectable(network)
        if self.optimum is None:
            return [p.detach().clone() for p in params.values()]
        weights = without_prefix(read_weights(self.optimum), network)
        if not set(weights) & set(params):
            raise ValueError(
                f"`optimum` should hold weights of the network. Found {len(weights)} tensors in `{self.optimum}`, none of "
                "whose names a trained parameter has. Give the weights of the same network, after training."
            )
        return [weights.get(name, p.detach()).clone() for name, p in params.items()]


def _gradients(network: nn.Module, batches: Iterable[Any], readout: Readout) -> Iterator[Row]:
    """The gradient of each example; zeros of one that has nothing supervised."""
    engine, params = GradientEngine(network), list(selectable(network).values())
    with eval_mode(network):
        for batch in batches:
            for number in range(len(readout.keys(batch))):
                yield engine.row(partial(example_loss, network, readout, number), [batch], params)[0]


def _fisher(network: nn.Module, batches: Iterable[Any], readout: Readout) -> list[Tensor]:
    # In half precision squares vanish, and a sum of many of them stands still.
    params = selectable(network).values()
    total, count = [torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32)) for p in params], 0
    for row in _gradients(network, batches, readout):
        count += 1
        for square, g in zip(total, row, strict=True):
            if g is not None:
                square.add_(g.to(square).square())
    return [square / max(count, 1) for square in total]
