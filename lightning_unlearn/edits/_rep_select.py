from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.attacks._adapter import attached_adapter
from lightning_unlearn.attacks._changes import Change
from lightning_unlearn.edits._base import Edit
from lightning_unlearn.engine import GradientEngine, gathered, sharded_like, with_local
from lightning_unlearn.functional.likelihood import mean_or_zero
from lightning_unlearn.functional.settings import check_kind, check_not_negative, check_positive, check_whole
from lightning_unlearn.readouts import Readout
from lightning_unlearn.runtime import eval_mode, local
from lightning_unlearn.transforms import SpectralCollapse


class RepSelect(Edit):
    r"""After RepSelect, its one-shot form: one step up the forget loss, without the directions that most of it shares.

    Three passes over the forget data, and nothing else:

    1. a low-rank adapter on the chosen matrices learns the forget data better still, by plain gradient descent;
    2. with that adapter in place, the gradient :math:`G` of the mean forget loss is taken in each matrix. What was easy to
       learn is learnt, so that the rest of the knowledge shows;
    3. the largest singular values of each :math:`G` are collapsed, and :math:`W \leftarrow W + \text{scale} \cdot
       \mathrm{collapse}(G)`. The adapter is thrown away.

    How far to go is for a budget to say: ``WithinBudget(RepSelect(), kl=0.01, neutral=text)`` finds the scale at which
    predictions on neutral text have moved by just that much. Written after the public code, since the paper's text was not
    to be had: there ``q=512`` of 4096 (an eighth), collapsed on the side of inputs and on that of outputs (``kind="both"``),
    adapter of rank 8 and rate 0.01.

    Args:
        scale: How far to step along the collapsed gradient; 0 changes nothing.
        collapse: What is done to each gradient, and which matrices are meant. Defaults to
            ``SpectralCollapse(fraction=0.125, kind="both", pattern="mlp")``.
        rank: Of the adapter; 0 for none.
        lr: Learning rate of the adapter.
        seed: Of the adapter's start.

    Raises:
        ValueError: When called, if no trained matrix is chosen, or there is no forget data.

    Example:
        >>> from lightning_unlearn.readouts import ClassificationReadout
        >>> network = nn.Linear(2, 2)
        >>> edit = RepSelect(scale=0.1, collapse=SpectralCollapse(q=1, pattern="weight"))
        >>> batch = torch.eye(2), torch.tensor([0, 1])
        >>> record = edit(network, forget=[batch], readout=ClassificationReadout())
        >>> record.tensors
        1

    References:
        `RepSelect <https://arxiv.org/abs/2606.17168>`_, 2026, by its code (``repselect_simple.py``).
    """

    needs_forget: ClassVar[bool] = True

    def __init__(
        self,
        scale: float = 1.0,
        collapse: SpectralCollapse | None = None,
        rank: int = 8,
        lr: float = 0.01,
        seed: int = 0,
    ) -> None:
        check_not_negative("scale", scale)
        check_whole("rank", rank, least=0)
        check_positive("lr", lr)
        if collapse is not None:
            check_kind("collapse", collapse, SpectralCollapse, example='SpectralCollapse(q=8, pattern="mlp")')
        self.scale, self.rank, self.lr, self.seed = scale, rank, lr, seed
        self.collapse = SpectralCollapse(fraction=0.125, kind="both", pattern="mlp") if collapse is None else collapse

    @override
    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "collapse": repr(self.collapse)}

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
        if readout is None or not forget:
            raise ValueError(
                "`RepSelect` should get forget batches and a readout to run the network on them. Found "
                f"{len(forget)} batches and `readout = {readout}`. Give `ApplyEdit(..., forget=loader)`, or, in a script, "
                "`edit(network, forget=batches, readout=...)`."
            )
        self.collapse.attach(network)
        chosen = {name: p for name, p in network.named_parameters() if p.requires_grad and self.collapse.changes(p)}
        if not chosen:
            raise ValueError(
                "`RepSelect` should find a trained matrix to change. All that it chooses are frozen: unfreeze them."
            )
        if self.scale:
            yield from self._steps(chosen, self._gradients(network, list(chosen.values()), forget, readout, engine))

    def _gradients(
        self,
        network: nn.Module,
        params: list[nn.Parameter],
        forget: Sequence[Any],
        readout: Readout,
        engine: GradientEngine,
    ) -> list[Tensor | None]:
        """Of the mean forget loss, where an adapter has learnt what is easily learnt."""

        def loss(batch: Any) -> Tensor:
            return mean_or_zero(readout(network, batch).token_nll())

        adapter: AbstractContextManager[list[Change]] = nullcontext([])
        if self.rank:
            adapter = attached_adapter(network, rank=self.rank, seed=self.seed, weights=params)
        with adapter as changes, eval_mode(network), torch.enable_grad():
            factors = [p for change in changes for p in change.params]
            for batch in forget if self.rank else ():
                row, _ = engine.row(loss, [batch], factors)
                _descend_(factors, row, self.lr)
            for p in factors:
                p.requires_grad_(False)
            for p in params:  # frozen while the adapter learnt; leaving the adapter puts it back
                p.requires_grad_(True)
            return engine.row(loss, forget, params)[0]

    def _steps(
        self, params: dict[str, nn.Parameter], gradients: Sequence[Tensor | None]
    ) -> Iterator[tuple[str, Tensor]]:
        for (name, param), gradient in zip(params.items(), gradients, strict=True):
            if gradient is None:
                continue
            # Whole, since singular values are those of the whole matrix; one at a time.
            direction = self.collapse.of(gathered(gradient), param)
            step = local(sharded_like(direction, param)).double() * self.scale
            yield name, with_local(param, local(param.detach()).double() + step)


@torch.no_grad()
def _descend_(params: Sequence[Tensor], row: Sequence[Tensor | None], lr: float) -> None:
    for p, gradient in zip(params, row, strict=True):
        if gradient is not None:
            p.sub_(gradient, alpha=lr)
