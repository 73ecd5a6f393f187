"""An attack or audit that fails on one rank fails on all within seconds; where all fail alike, the fit goes on."""

from __future__ import annotations

import os
import signal
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from _modules import SomebodysModule, loader, quiet
from _ranks import run_ranks
from _sharded_fits import fsdp2
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import fully_shard

from lightning_unlearn import Attack, GradientAscent, Quantize, RecoveryCheck, Unlearn, WriteReport
from lightning_unlearn.audits import Audit, Measure
from lightning_unlearn.observation import Observation
from lightning_unlearn.report import RobustnessReport

pytestmark = pytest.mark.slow


class Sharded(SomebodysModule):
    def configure_model(self) -> None:
        if not hasattr(self, "mesh"):
            self.mesh = self.device_mesh["data_parallel"]
            fully_shard(self.head, mesh=self.mesh)
            fully_shard(self, mesh=self.mesh)


STRATEGIES: dict[str, Any] = {
    "ddp": (SomebodysModule, lambda: DDPStrategy(find_unused_parameters=True)),
    "fsdp2": (Sharded, lambda: fsdp2(True)),
}


class Nothing(Audit):
    """An audit there has to be; this one observes nothing."""

    def __call__(self, network: Any, **kwargs: Any) -> list[Observation]:
        return []

    def definitions(self) -> dict[str, str]:
        return {}


def collective() -> None:
    distributed.all_reduce(torch.ones(1))


class Unlucky(Attack):
    """Raises on some ranks: before a collective that all enter, between two, or when all others are done."""

    family, unit = "unlucky", "step"

    def __init__(self, ranks: tuple[int, ...], when: str) -> None:
        self.ranks, self.when = ranks, when

    def maybe(self, when: str) -> None:
        if when == self.when and distributed.get_rank() in self.ranks:
            raise ValueError(f"bad luck on rank {distributed.get_rank()}")

    @contextmanager
    def __call__(self, network: nn.Module, **kwargs: Any) -> Iterator[Iterator[int]]:
        yield self.points()

    def points(self) -> Iterator[int]:
        self.maybe("before")
        collective()
        yield 1
        self.maybe("between")
        collective()
        yield 2
        self.maybe("after")


class UnluckyAudit(Audit):
    def __init__(self, ranks: tuple[int, ...]) -> None:
        self.ranks = ranks

    def definitions(self) -> dict[str, str]:
        return {"luck": "None."}

    def __call__(self, network: nn.Module, **kwargs: Any) -> list[Observation]:
        if distributed.get_rank() in self.ranks:
            raise ValueError(f"bad luck on rank {distributed.get_rank()}")
        collective()
        return []


def fit(strategy: str, check: RecoveryCheck | None, *callbacks: Any) -> dict[str, Tensor]:
    kind, make = STRATEGIES[strategy]
    module = kind()
    unlearn = Unlearn(GradientAscent(), forget=loader(seed=2))
    trainer = quiet(
        callbacks=[unlearn, *([check] if check else []), *callbacks], strategy=make(), devices=2, max_steps=2
    )
    trainer.fit(module, loader(seed=1))
    return {name: getattr(p, "_local_tensor", p).detach().clone() for name, p in module.named_parameters()}


def check_with(attack: Attack, **kwargs: Any) -> RecoveryCheck:
    probes: Any = {"forget": loader(seed=2), "retain": loader(seed=1)}
    return RecoveryCheck({"int4": Quantize(bits=4), "unlucky": attack}, probes=probes, **kwargs)


def error_of(work: Any) -> tuple[str, float]:
    warnings.simplefilter("ignore")
    start = time.monotonic()
    try:
        work()
    except RuntimeError as error:
        return str(error), time.monotonic() - start
    return "nothing", time.monotonic() - start


@pytest.mark.parametrize("culprit", [0, 1])
@pytest.mark.parametrize("when", ["before", "between", "after"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_rank_that_fails_ends_both_and_is_named(strategy: str, when: str, culprit: int) -> None:
    def work(rank: int, world_size: int) -> tuple[str, float]:
        return error_of(lambda: fit(strategy, check_with(Unlucky((culprit,), when))))

    for words, seconds in run_ranks(work, timeout=60):
        assert "Attack `unlucky` should fail on every rank or on none" in words
        assert (
            f"failed on rank {culprit} (ValueError: bad luck on rank {culprit}), but not on rank {1 - culprit}" in words
        )
        assert seconds < 12  # of which the fit takes one or two


@pytest.mark.parametrize("culprit", [0, 1])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_so_does_an_audit_without_an_attack_and_an_attack_on_the_control(strategy: str, culprit: int) -> None:
    torch.save(SomebodysModule().state_dict(), "control.pt")

    def audit(rank: int, world_size: int) -> tuple[str, float]:
        check = check_with(Quantize(bits=4), audits=[Measure(), UnluckyAudit((culprit,))])
        return error_of(lambda: fit(strategy, check))

    class UnluckyOnTheControl(Unlucky):
        calls = 0

        def points(self) -> Iterator[int]:
            self.calls += 1  # the original comes first
            return iter((1,)) if self.calls == 1 else super().points()

    def control(rank: int, world_size: int) -> tuple[str, float]:
        check = check_with(UnluckyOnTheControl((culprit,), "between"), control="control.pt")
        return error_of(lambda: fit(strategy, check))

    for work, who in ((audit, "Audit `UnluckyAudit`"), (control, "Attack `unlucky`")):
        for words, seconds in run_ranks(work, timeout=60):
            assert f"{who} should fail on every rank or on none" in words
            assert f"failed on rank {culprit} (ValueError: bad luck on rank {culprit}), but not on rank" in words
            assert seconds < 12


@pytest.mark.parametrize("when", ["before", "between", "after"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_where_all_fail_alike_it_is_recorded_and_the_fit_equals_the_fit_without(strategy: str, when: str) -> None:
    def work(rank: int, world_size: int) -> tuple[dict[str, Tensor], list[tuple[Any, ...]]]:
        warnings.simplefilter("ignore")
        check = check_with(Unlucky((0, 1), when), audits=[Measure(), UnluckyAudit((0, 1))])
        weights = fit(strategy, check)
        return weights, [(f.who, f.subject, f.step, f.point, f.message) for f in check.failures]

    def without(rank: int, world_size: int) -> dict[str, Tensor]:
        warnings.simplefilter("ignore")
        return fit(strategy, None)

    reached = {"before": None, "between": 1, "after": 2}[when]
    for (weights, failures), plain in zip(run_ranks(work), run_ranks(without), strict=True):
        assert all(torch.equal(weights[name], plain[name]) for name in plain)
        # The same words on both ranks: those of rank 0.
        assert failures == [
            (who, subject, step, point, "bad luck on rank 0")
            for subject, step in (("original", 0), ("unlearned", 2))
            for who, point in (("the audit UnluckyAudit", None), ("the attack unlucky", reached))
        ]


def test_failing_at_different_places_is_not_failing_alike() -> None:
    class Staggered(Unlucky):
        def points(self) -> Iterator[int]:
            yield 1
            if distributed.get_rank() == 0:
                raise ValueError("early")
            yield 2
            raise KeyError("late")

    def work(rank: int, world_size: int) -> tuple[str, float]:
        check = check_with(Staggered((), ""), audits=[Nothing()])
        return error_of(lambda: fit("ddp", check))

    for words, _ in run_ranks(work, timeout=60):
        assert "failed on rank 0 (ValueError: early), on rank 1 (KeyError: 'late'), at different places" in words


def test_ctrl_c_on_one_rank_ends_the_other() -> None:
    class Interrupted(Unlucky):
        def points(self) -> Iterator[int]:
            if distributed.get_rank() == 1:
                raise KeyboardInterrupt
            yield 1

    def work(rank: int, world_size: int) -> tuple[str, float]:
        start = time.monotonic()
        check = check_with(Interrupted((), ""), audits=[Nothing()])
        try:
            fit("ddp", check)
        except SystemExit:
            return "exit", time.monotonic() - start
        except RuntimeError as error:
            return str(error), time.monotonic() - start
        return "nothing", 0.0

    (first, seconds), (second, _) = run_ranks(work, timeout=60)
    assert "Attack `unlucky` was ended on rank 1 by KeyboardInterrupt" in first
    assert second == "exit"
    assert seconds < 12


@pytest.mark.parametrize("asked", [(0, 1), (0,), (1,)], ids=str)
def test_sigterm_during_an_attack_ends_all_with_a_report(asked: tuple[int, ...], tmp_path: Path) -> None:
    class Terminated(Unlucky):
        """Not at the same collective on both ranks."""

        def kill(self, rank: int) -> None:
            if distributed.get_rank() == rank and rank in asked:
                os.kill(os.getpid(), signal.SIGTERM)

        def points(self) -> Iterator[int]:
            self.kill(0)
            collective()
            yield 1
            self.kill(1)
            collective()
            yield 2

    def work(rank: int, world_size: int) -> tuple[Any, float, list[Any]]:
        warnings.simplefilter("ignore")
        start = time.monotonic()
        check = check_with(Terminated((), ""), audits=[Measure()])
        try:
            fit("ddp", check, WriteReport(str(tmp_path)))
        except SystemExit as error:
            return error.code, time.monotonic() - start, [(o.attack, o.point) for o in check.observations]
        return "nothing", 0.0, []

    for code, seconds, observed in run_ranks(work, timeout=60):
        assert code == 143
        assert seconds < 15
        assert ("unlucky", 2) in observed
    report = RobustnessReport.load(tmp_path)
    assert report.run["interrupted"] == "SIGTERM"
    assert report.failures == []  # the attack ran to its end


def test_a_control_that_is_missing_on_one_machine_ends_all() -> None:
    torch.save(SomebodysModule().state_dict(), "control.pt")

    def work(rank: int, world_size: int) -> tuple[str, float]:
        check = check_with(Quantize(bits=4), control="control.pt")
        if rank == 1:
            check.setup = lambda *args, **kwargs: Path("elsewhere").mkdir() or os.chdir("elsewhere")  # type: ignore[method-assign]
        return error_of(lambda: fit("ddp", check))

    for words, seconds in run_ranks(work, timeout=60):
        assert "Loading the weights to compare with should fail on every rank or on none" in words
        assert "failed on rank 1 (FileNotFoundError" in words
        assert seconds < 12
