"""Tensor-parallel processes see the same data and hold parts of each matrix: together they are one process."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from _modules import examples, loader, quiet
from _ranks import run_ranks
from _sharded_fits import whole
from _tensor_parallel import Plain, TensorParallel, strategy
from torch.distributed.tensor import DTensor
from torch.testing import assert_close
from torch.utils.data import DataLoader

from lightning_unlearn import Bounded, GradientAscent, Orthogonal, RecoveryCheck, Unlearn, WeightedSum
from lightning_unlearn.callbacks import StepGuard
from lightning_unlearn.guards import History, Monitor, NoChange, NoIncrease


def fit(parallel: bool, projector: Any = None, **guard: Any) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    module = TensorParallel() if parallel else Plain()
    unlearn = Unlearn(
        Bounded(GradientAscent(), bound=4.0),
        forget=DataLoader(examples(2, n=12), batch_size=4),
        weight=10.0,
        projector=projector,
    )
    guards = [StepGuard(**guard)] if guard else []
    trainer = quiet(
        strategy=strategy() if parallel else "auto",
        devices=2 if parallel else 1,
        callbacks=[unlearn, *guards],
        accumulate_grad_batches=2,
        use_distributed_sampler=False,
        max_epochs=2,
    )
    trainer.fit(module, loader(seed=1))
    if parallel:
        assert sum(isinstance(p, DTensor) for p in module.parameters()) == 4
    logged = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith(("guard/", "unlearn/forget"))}
    return whole(module, None), logged


def assert_equal_to_one_process(**options: Any) -> None:
    expected, logged = fit(False, **options)
    for parameters, logged_there in run_ranks(lambda rank, world: fit(True, **options)):
        for name, value in expected.items():
            assert_close(parameters[name], value, rtol=0, atol=2e-6, msg=lambda m, name=name: f"{name}: {m}")
        assert logged_there == pytest.approx(logged, abs=2e-6, rel=1e-4)


@pytest.mark.parametrize("projector", [WeightedSum(), Orthogonal()], ids=repr)
def test_projectors(projector: Any) -> None:
    assert_equal_to_one_process(projector=projector)


GUARDS: dict[str, dict[str, Any]] = {
    "cone": {"rule": NoIncrease()},
    "null": {"rule": NoChange()},
    "history": {"rule": NoChange(), "directions": History(3)},
    "parameter": {"rule": NoIncrease(), "scope": "parameter"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", GUARDS)
def test_guards(name: str) -> None:
    assert_equal_to_one_process(**GUARDS[name])
    watched, _ = fit(False, rule=Monitor())
    guarded, _ = fit(False, **GUARDS[name])
    assert any(not torch.equal(watched[n], guarded[n]) for n in watched)


def test_checks_are_refused_by_name() -> None:
    def run(rank: int, world_size: int) -> str:
        trainer = quiet(strategy=strategy(), devices=2, callbacks=[RecoveryCheck({})])
        with pytest.raises(NotImplementedError, match="Found `tensor_parallel_size = 2`") as caught:
            trainer.fit(TensorParallel(), loader(seed=1))
        return str(caught.value)

    for message in run_ranks(run):
        assert message.startswith("`RecoveryCheck` should measure")
