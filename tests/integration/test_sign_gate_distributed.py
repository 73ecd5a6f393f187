"""A gated fit in two real processes equals the one in one process, and resumes with its average."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from _modules import SomebodysModule, quiet
from _ranks import run_ranks
from _sharded_fits import SAVING, STRATEGIES, data, loader, whole
from torch.testing import assert_close
from torch.utils.data import DataLoader

from lightning_unlearn import Bounded, GradientAscent, SignGate, Unlearn

pytestmark = pytest.mark.slow  # two processes each

NAMES = ("closed", "kept", "retain_before", "retain_after")


def trained(
    kinds: Any, kind: str | None, rank: int, world: int, gate: SignGate, exact: bool = False, **kwargs: Any
) -> Any:
    module_class, strategy = kinds[kind] if kind else (SomebodysModule, lambda: "auto")
    module = module_class()
    if exact:
        module.double()  # signs of what is nearly zero then are those of one process
    forget = DataLoader(data(2, 12, exact), batch_size=8 // world)
    unlearn = Unlearn(Bounded(GradientAscent(), bound=4.0), forget=forget, weight=10.0)
    ckpt_path = kwargs.pop("ckpt_path", None)
    trainer = quiet(
        strategy=strategy(), devices=world, callbacks=[unlearn, gate], use_distributed_sampler=False, **kwargs
    )
    trainer.fit(module, loader(data(1, 32, exact), rank, world), ckpt_path=ckpt_path)
    return module, trainer


def fit(kind: str | None, rank: int, world: int, accumulate: int, exact: bool, **settings: Any) -> Any:
    gate = SignGate(**settings)
    steps = {"max_epochs": 2, "accumulate_grad_batches": accumulate}
    module, trainer = trained(STRATEGIES, kind, rank, world, gate, exact=exact, **steps)
    assert gate._steps == {"taken": 8 // accumulate, "transformed": 8 // accumulate}
    return whole(module, kind), {name: float(trainer.callback_metrics[f"gate/{name}"]) for name in NAMES}


@pytest.mark.parametrize("settings", [{}, {"average": 0.8, "tau": 0.3}], ids=str)
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("kind", ["ddp", "fsdp2", "fsdp1"])
def test_two_processes_gate_what_one_would(kind: str, accumulate: int, settings: Any) -> None:
    exact = kind != "fsdp1"  # it flattens parameters of float32
    expected, logged = fit(None, 0, 1, accumulate, exact, **settings)
    for parameters, logged_there in run_ranks(
        lambda rank, world: fit(kind, rank, world, accumulate, exact, **settings)
    ):
        for name, value in expected.items():
            if kind == "fsdp1" and name == "unused":
                continue  # FSDP1 gives unused parameters a zero gradient, so they decay, with or without us
            assert_close(
                parameters[name], value, rtol=0, atol=1e-9 if exact else 1e-6, msg=lambda m, name=name: f"{name}: {m}"
            )
        for name in NAMES:
            if exact:  # the unused parameter of FSDP1 moves, and counts
                assert logged_there[name] == pytest.approx(logged[name], rel=1e-6), name
    free, _ = fit(None, 0, 1, accumulate, exact, tau=1e9)
    assert any(not torch.equal(free[name], expected[name]) for name in expected)


@pytest.mark.filterwarnings("ignore")  # torch's own, about its first FSDP
@pytest.mark.usefixtures("device_semantics")
@pytest.mark.parametrize("kind", ["ddp", "fsdp1", "fsdp2"])
def test_the_average_is_resumed_each_process_with_its_own_shards(kind: str, tmp_path: Path) -> None:
    def run(rank: int, world: int, epochs: int, resumed: bool) -> Any:
        path = tmp_path / "first.ckpt"
        gate = SignGate(average=0.9)
        ckpt_path = {"ckpt_path": path} if resumed else {}
        module, trainer = trained(SAVING, kind, rank, world, gate, max_epochs=epochs, **ckpt_path)
        if epochs == 1:
            trainer.save_checkpoint(path)
        return whole(module, kind), gate._averaged

    expected = run_ranks(lambda rank, world: run(rank, world, 2, False))
    run_ranks(lambda rank, world: run(rank, world, 1, False))
    resumed = run_ranks(lambda rank, world: run(rank, world, 2, True))
    for (parameters, averaged), (there, averaged_there) in zip(expected, resumed, strict=True):
        assert all(torch.equal(there[name], value) for name, value in parameters.items())
        assert any(row is not None for row in averaged)
        assert all(torch.equal(a, b) for a, b in zip(averaged, averaged_there, strict=True) if a is not None)
