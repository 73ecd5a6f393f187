from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_unlearn.attacks._perturbed import RealisedShare, in_full, is_half
from lightning_unlearn.engine import Row
from lightning_unlearn.runtime import can_be_fused, local


class Masters:
    """Train parameters by AdamW in float32, whatever they are stored in.

    A parameter of half precision gets a float32 copy that is trained, and is rounded from it after each step. Weights in
    bf16 alone would swallow most of a small step: 92 % of one of AdamW at a rate of 7e-6. Others are trained in place.
    Neither ``.grad`` of a parameter nor its ``requires_grad`` is touched.

    Args:
        params: The parameters; local shards, if they are sharded.
        lr: Learning rate, constant. There is no weight decay.
    """

    def __init__(self, params: Sequence[Tensor], *, lr: float) -> None:
        self._params = list(params)
        # `detach` shares memory, and has a `.grad` of its own.
        self._masters = [p.detach().to(in_full(p)) if is_half(p) else p.detach() for p in params]
        self._optimizer: torch.optim.Optimizer | None = torch.optim.AdamW(
            self._masters, lr=lr, weight_decay=0.0, fused=can_be_fused(self._masters)
        )

    def step(self, row: Row) -> None:
        """Take one step along a gradient."""
        assert self._optimizer is not None, "not released"
        for master, grad in zip(self._masters, row, strict=True):
            master.grad = None if grad is None else grad.to(master.dtype)
        self._optimizer.step()
        self._optimizer.zero_grad()
        with torch.no_grad():
            for p, master in self._rounded():
                local(p).data.copy_(local(master))

    def realised_share(self, starts: Sequence[tuple[Tensor, Tensor]]) -> float:
        """How much of the way from ``starts``, pairs of parameter and value, arrived in the parameters. Warns below half."""
        share, begun = RealisedShare('`Relearn(mode="full")`'), {id(p): value for p, value in starts}
        for p, master in self._rounded():
            start, trained = begun[id(p)].to(local(p).device).float(), local(master)
            share.add(trained - start, local(p).detach().float() - start)
        share.warn()
        return share.value

    def release(self) -> None:
        """Let go of the optimizer's state and of all copies; the parameters stay where they are."""
        self._optimizer = None
        self._masters = []

    def _rounded(self) -> list[tuple[Tensor, Tensor]]:
        return [(p, m) for p, m in zip(self._params, self._masters, strict=True) if is_half(p)]
