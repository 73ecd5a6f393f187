"""Forget passes move nothing under sharded strategies either."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from _fingerprints import Log
from _modules import quiet
from _ranks import run_ranks
from _sharded_fits import STRATEGIES, data, loader, whole
from torch import Tensor, nn

from lightning_unlearn import GradientAscent, StepGuard, Unlearn
from lightning_unlearn.guards import Monitor


def restless(kind: str) -> Any:
    """The module of a strategy, with a norm that keeps statistics, dropout, a hidden state and a counter."""
    cls, strategy = STRATEGIES[kind]

    class Restless(cls):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(0.3))
            self.calls, self.last = 0, torch.zeros(5)

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            out = super().forward(x) + 0.1 * self.last + 1e-3 * self.calls
            self.last = out.detach().mean(0)
            return out

    return Restless(), strategy()


def _fit(kind: str, rank: int, world_size: int, callbacks: list[pl.Callback]) -> dict[str, Any]:
    pl.seed_everything(3, verbose=False)
    module, strategy = restless(kind)
    log = Log()
    trainer = quiet(
        strategy=strategy, devices=world_size, use_distributed_sampler=False, callbacks=callbacks, logger=log
    )
    trainer.fit(module, loader(data(1, 32, exact=False), rank, world_size))
    state = {name: t.tolist() for name, t in whole(module, kind).items()}
    state |= {name: b.tolist() for name, b in module.named_buffers()}
    return {**state, "calls": module.calls, "last": module.last.tolist(), "random": torch.get_rng_state().tolist()}


def _differences(kind: str) -> Any:
    def on_rank(rank: int, world_size: int) -> list[str]:
        forget = loader(data(2, 32, exact=False), rank, world_size)
        ours = [Unlearn(GradientAscent(), weight=1e-300, forget=forget), StepGuard(Monitor())]
        with_us, plain = (_fit(kind, rank, world_size, callbacks) for callbacks in (ours, []))
        return [name for name in plain if plain[name] != with_us[name]]

    return on_rank


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:It is recommended to use `self.log", "ignore:.*FSDP.*")
@pytest.mark.parametrize("kind", ["fsdp1", "fsdp2"])
def test_a_fit_is_the_plain_fit_on_every_rank(kind: str) -> None:
    assert run_ranks(_differences(kind)) == [[], []]
