from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.edits._base import Edit
from lightning_unlearn.edits._needs import mean_row, needed
from lightning_unlearn.engine import GradientEngine, Row, with_local
from lightning_unlearn.functional.settings import check_positive, check_whole
from lightning_unlearn.readouts import Readout
from lightning_unlearn.runtime import drop_copies, eval_mode, interruptible, local, uninterrupted
from lightning_unlearn.selectors import selectable

_ENOUGH = 1e-4
"""Armijo's constant, as in most line searches."""


class _Ascent(Edit):
    """One step along what forget data pull up and retain data pull down.

    Args:
        weighting: ``"sum"`` or ``"mean"``; see :class:`OneStepAscent`.
    """

    needs_forget: ClassVar[bool] = True
    needs_retain: ClassVar[bool] = True

    def __init__(self, weighting: Literal["sum", "mean"]) -> None:
        if weighting not in ("sum", "mean"):
            raise ValueError(f'`weighting` should be "sum" or "mean". Found `weighting = {weighting!r}`.')
        self.weighting = weighting

    def direction(
        self,
        network: nn.Module,
        forget: Sequence[Any],
        retain: Sequence[Any],
        readout: Readout,
        engine: GradientEngine,
    ) -> tuple[dict[str, Tensor], Merit]:
        """Local shards of the direction, by name, and the merit whose steepest descent it is. Collective."""
        named = selectable(network)
        up, forgotten, n = mean_row(network, forget, readout, engine, list(named.values()))
        down, retained, m = mean_row(network, retain, readout, engine, list(named.values()))
        shares = (n / (n + m), m / (n + m)) if self.weighting == "sum" else (1.0, 1.0)
        found = {}
        for name, a, b in zip(named, up, down, strict=True):
            parts = [local(g) * s for g, s in ((a, shares[0]), (b, -shares[1])) if g is not None]
            if parts:
                found[name] = torch.stack(parts).sum(0)
        return found, Merit(shares, forgotten, retained)


class Merit:
    r"""What a step should lower: :math:`s_r L_r + s_f \max(0, b - L_f)`."""

    def __init__(self, shares: tuple[float, float], forgotten: float, retained: float) -> None:
        self.shares, self.forgotten, self.retained = shares, forgotten, retained

    def of(self, forgotten: float, retained: float, bound: float) -> float:
        """The merit of two mean losses."""
        return self.shares[1] * retained + self.shares[0] * max(0.0, bound - forgotten)


class OneStepAscent(_Ascent):
    r"""One gradient step that takes the forget data out, as long as a line search allows: a cheap baseline.

    .. math:: \theta \leftarrow \theta + \eta \, d, \qquad d = s_f \nabla L_f - s_r \nabla L_r

    with the mean losses :math:`L` over all rows. Weighted by ``"sum"``, the shares :math:`s` are those of rows: adding a
    point with the opposite gradient takes a point out of the sum that was trained on. Weighted by ``"mean"`` both are 1, as
    in the authors' code, where few forget data pull as much as many retain data.

    :math:`\eta` starts at ``lr`` and is halved until the step does what its slope promises (Armijo's condition) for

    .. math:: s_r L_r + s_f \max(0, b - L_f)

    Where the network is at an optimum of all data, the retain gradient is minus the forget gradient, up to their shares:
    then this is plain ascent, and the retain term adds nothing.

    Args:
        lr: The longest step that is tried.
        bound: :math:`b`, in nats: forgetting above this is worth nothing. Guessing among ``V`` classes or tokens costs
            ``log(V)``.
        weighting: ``"sum"`` or ``"mean"``.
        halvings: How often the step is halved at most. If none will do, nothing changes, and a warning says so.

    Raises:
        ValueError: When called, without forget data, retain data or a readout.

    Example:
        >>> from lightning_unlearn.readouts import ClassificationReadout
        >>> layer = nn.Linear(2, 2)
        >>> here, there = ((torch.eye(2)[i : i + 1], torch.tensor([i])) for i in range(2))
        >>> record = OneStepAscent(lr=0.1)(layer, forget=[here], retain=[there], readout=ClassificationReadout())
        >>> record.tensors
        2

    References:
        `Efficient Machine Unlearning via Influence Approximation <https://arxiv.org/abs/2507.23257>`_ (IAU), 2025, without
        its training-time penalty; the line search and the bound are ours.
    """

    def __init__(
        self,
        lr: float = 1.0,
        bound: float = 10.0,
        weighting: Literal["sum", "mean"] = "sum",
        halvings: int = 20,
    ) -> None:
        super().__init__(weighting)
        check_positive("lr", lr)
        check_positive("bound", bound)
        check_whole("halvings", halvings, least=0)
        self.lr, self.bound, self.halvings = lr, bound, halvings

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
        with eval_mode(network):
            way, merit = self.direction(network, forget, retain, readout, engine)
            params = {name: p for name, p in network.named_parameters() if name in way}
            start = {name: local(p.detach()).clone() for name, p in params.items()}
            rows: Row = [with_local(params[name], d) for name, d in way.items()]
            slope = float(engine.gramian([rows], list(params.values())))
            before, step = merit.of(merit.forgotten, merit.retained, self.bound), 0.0
            with uninterrupted():
                try:
                    for tried in [self.lr / 2**halving for halving in range(self.halvings + 1)]:
                        with interruptible():
                            _place_(network, params, start, way, tried)
                            losses = [_mean_loss(network, data, readout, engine) for data in (forget, retain)]
                        if merit.of(losses[0], losses[1], self.bound) <= before - _ENOUGH * tried * slope:
                            step = tried
                            break
                finally:
                    _place_(network, params, start, way, 0.0)
        if not step:
            rank_zero_warn(
                "`OneStepAscent` should find a step that lowers what it minimises. Found none down to "
                f"{self.lr / 2**self.halvings:.3g}: the forget loss is at its bound, or the step is along a ridge. Nothing "
                "was changed. Set a smaller `lr`, or a larger `bound`."
            )
            return
        for name, param in params.items():
            yield name, with_local(param, _moved(start[name], way[name], step))


class SignAscent(_Ascent):
    r"""One step of fixed length in every weight, by the sign of what forget data pull up and retain data down.

    .. math:: \theta \leftarrow \theta + \eta \, \mathrm{sign}\, d

    What the authors' code of :class:`OneStepAscent` does: the first step of Adam is a step by sign. It is there to be
    compared with. The sizes of gradients are lost, and so is any sense of how far to go; weights that matter for nothing
    move as far as all others.

    Args:
        lr: The length of the step in each weight.
        weighting: ``"mean"``, as theirs, or ``"sum"``.

    Example:
        >>> from lightning_unlearn.readouts import ClassificationReadout
        >>> layer = nn.Linear(2, 2, bias=False)
        >>> before = layer.weight.detach().clone()
        >>> batch = (torch.eye(2), torch.tensor([0, 1]))
        >>> flipped = (torch.eye(2), torch.tensor([1, 0]))
        >>> _ = SignAscent(lr=0.25)(layer, forget=[batch], retain=[flipped], readout=ClassificationReadout())
        >>> torch.allclose((layer.weight - before).abs(), torch.tensor(0.25))
        True

    References:
        As :class:`OneStepAscent`, by its code.
    """

    def __init__(self, lr: float = 1e-3, weighting: Literal["sum", "mean"] = "mean") -> None:
        super().__init__(weighting)
        check_positive("lr", lr)
        self.lr = lr

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
        with eval_mode(network):
            way, _ = self.direction(network, forget, retain, readout, engine)
        for name, param in network.named_parameters():
            if name in way:
                yield name, with_local(param, _moved(local(param.detach()), way[name].sign(), self.lr))


def _moved(start: Tensor, way: Tensor, step: float) -> Tensor:
    return start.double().add(way, alpha=step) if step else start


@torch.no_grad()
def _place_(
    network: nn.Module, params: dict[str, nn.Parameter], start: dict[str, Tensor], way: dict[str, Tensor], step: float
) -> None:
    drop_copies(network)
    for name, p in params.items():
        local(p).data.copy_(_moved(start[name], way[name], step))
    drop_copies(network)


@torch.no_grad()
def _mean_loss(network: nn.Module, batches: Sequence[Any], readout: Readout, engine: GradientEngine) -> float:
    nlls = [engine.forward(lambda b: readout(network, b).token_nll(), batch) for batch in batches]
    total = torch.stack([n.double().sum() for n in nlls]).sum()
    return float(engine.average(total)) / max(sum(n.numel() for n in nlls), 1)
