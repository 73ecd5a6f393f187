"""What was observed until an error, Ctrl-C or SIGTERM ended the run is in the report, which says that it is incomplete."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from _modules import SomebodysModule, loader, quiet
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from lightning_unlearn import (
    AnswerProbability,
    Attack,
    GradientAscent,
    Quantize,
    RecoveryCheck,
    Relearn,
    Unlearn,
    WriteReport,
)
from lightning_unlearn.audits import Measure
from lightning_unlearn.observation import Observation
from lightning_unlearn.report import RobustnessReport


@pytest.fixture(autouse=True)
def _as_in_a_terminal() -> Iterator[None]:
    """Lightning ignores Ctrl-C for good once it has seen one."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class AtAPoint(Attack):
    """Something happens at its second point of three, when the model has taken a step; it trains for long between them."""

    family, unit, needs_data = "unlucky", "step", True

    def __init__(self, happens: Any, after_steps: int = 1) -> None:
        self.happens, self.after_steps, self.looks = happens, after_steps, 0

    @contextmanager
    def __call__(self, network: nn.Module, **kwargs: Any) -> Iterator[Iterator[int]]:
        self.looks += 1
        inner = Relearn(steps=5, lr=1e-1, mode="full")
        with inner(network, **kwargs) as points:
            yield self.points(points)

    def points(self, points: Iterator[int]) -> Iterator[int]:
        for point in points:
            yield point
            if point == 1 and self.looks > self.after_steps:
                self.happens()


def raising() -> None:
    raise RuntimeError("out of luck")


def fit(attack: Attack, *callbacks: Any, module: Any = None, **kwargs: Any) -> tuple[Any, BaseException | None]:
    module = module or SomebodysModule()
    check = RecoveryCheck(
        {"int4": Quantize(bits=4), "unlucky": attack, "never": Quantize(bits=3)},
        audits=[Measure()],
        every_n_steps=2,
        every_n_epochs=0,
        probes={"forget": loader(seed=2, n=4), "retain": loader(seed=1, n=4)},
        attack_data=loader(seed=2, n=4),
    )
    unlearn = Unlearn(GradientAscent(), forget=loader(seed=2))
    trainer = quiet(callbacks=[unlearn, check, WriteReport("report"), *callbacks], max_epochs=1, **kwargs)
    try:
        trainer.fit(module, loader(seed=1))
    except BaseException as error:
        return (trainer, module, check), error
    return (trainer, module, check), None


def kill() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(("happens", "by"), [(kill, "SIGTERM"), (interrupt, "Ctrl-C")], ids=["SIGTERM", "Ctrl-C"])
def test_in_the_middle_of_an_attack(happens: Any, by: str) -> None:
    saving = ModelCheckpoint("saved", save_on_exception=True)
    plain = SomebodysModule()
    quiet(callbacks=[Unlearn(GradientAscent(), forget=loader(seed=2))], max_steps=2).fit(plain, loader(seed=1))
    (_, module, check), error = fit(AtAPoint(happens), saving, enable_checkpointing=True)
    assert isinstance(error, SystemExit)
    assert error.code == (143 if by == "SIGTERM" else 1)
    report = RobustnessReport.load("report")
    assert report.run["interrupted"] == by
    assert report.summary["verdict"].startswith(f"Incomplete: the run was ended before its time by {by}.")
    assert report.summary["worst"] is None
    assert not any(recovery.is_verdict for recovery in report.recoveries)
    # At step 2 all of int4, and the points of the attack that were measured until then.
    at_step_2 = {(o.attack, o.point) for o in report.observations if o.step == 2}
    assert at_step_2 == {("none", 0), ("int4", 4), ("unlucky", 0), ("unlucky", 1)}
    assert [(f.attack, f.point, f.step) for f in report.failures] == [("unlucky", 1, 2)]
    assert report.failures == check.failures
    # The weights are those of two steps, in memory and in the checkpoint.
    (path,) = Path("saved").glob("*.ckpt")
    saved = torch.load(path, weights_only=True)["state_dict"]
    for state in (module.state_dict(), saved):
        assert all(torch.equal(state[name], value) for name, value in plain.state_dict().items())


def test_sigterm_is_heeded_within_a_long_attack_step_by_step() -> None:
    steps: list[int] = []

    class Long(Relearn):
        def _train(self, *given: Any) -> Iterator[int]:
            *before, loss, engine = given

            def counted(batch: Any) -> Tensor:
                steps.append(1)
                if len(steps) == 5:
                    kill()
                return loss(batch)

            yield from super()._train(*before, counted, engine)

    _, error = fit(Long(steps=1000))
    assert isinstance(error, SystemExit)
    assert len(steps) == 5
    assert RobustnessReport.load("report").run["interrupted"] == "SIGTERM"


def test_an_error_of_the_users_own_code_leaves_a_report_and_comes_through() -> None:
    class Breaks(SomebodysModule):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            if batch_idx == 3:
                raise ValueError("the user's own")
            return super().training_step(batch, batch_idx)

    _, error = fit(Quantize(bits=8), module=Breaks())
    assert repr(error) == 'ValueError("the user\'s own")'
    report = RobustnessReport.load("report")
    assert report.run["interrupted"] == "ValueError: the user's own"
    assert {o.step for o in report.observations} == {0, 2}


def test_a_report_that_cannot_be_written_does_not_hide_what_ended_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("lightning_unlearn.callbacks._write_report.save", full)
    with pytest.warns(
        UserWarning, match="report should be written to `report`. Found: no space left on device. It is kept"
    ):
        _, error = fit(AtAPoint(kill))
    assert isinstance(error, SystemExit)


def test_system_exits_of_the_users_keep_their_code() -> None:
    class Exits(SomebodysModule):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            raise SystemExit

    _, error = fit(Quantize(bits=8), module=Exits())
    assert isinstance(error, SystemExit)
    assert error.code is None


def test_a_failed_attack_is_in_the_state_and_resume_keeps_it() -> None:
    saving = ModelCheckpoint("saved", save_last=True)
    with pytest.warns(
        UserWarning, match="Attack `unlucky` failed, and the fit goes on without it: RuntimeError: out of"
    ):
        (_, _, check), error = fit(AtAPoint(raising, after_steps=0), saving, enable_checkpointing=True)
    assert error is None
    assert [(f.subject, f.step, f.point) for f in check.failures] == [
        ("original", 0, 1),
        ("unlearned", 2, 1),
        ("unlearned", 4, 1),
        ("unlearned", 6, 1),
    ]
    assert {f.words for f in check.failures} == {"failed after step 1 (RuntimeError: out of luck)"}
    resumed = RecoveryCheck()
    resumed.load_state_dict(torch.load("saved/last.ckpt", weights_only=True)["callbacks"][check.state_key])
    assert resumed.failures == check.failures
    report = RobustnessReport.load("report")
    assert report.failures == check.failures
    assert report.summary["worst"] is None
    assert [gate.attack for gate in report.gates if gate.code == "G8"] == ["unlucky"]
    assert "interrupted" not in report.run


class Blind(Measure):
    """Fails from the second look on."""

    looks = 0

    def __call__(self, network: nn.Module, **kwargs: Any) -> list[Observation]:
        self.looks += 1
        if self.looks > self.sees:
            raise KeyError("label")
        return super().__call__(network, **kwargs)

    def __init__(self, sees: int) -> None:
        super().__init__()
        self.sees = sees


def audited(*audits: Any) -> RecoveryCheck:
    check = RecoveryCheck(
        {"int4": Quantize(bits=4)}, audits=list(audits), probes={"forget": loader(seed=2), "retain": loader(seed=1)}
    )
    trainer = quiet(callbacks=[Unlearn(GradientAscent(), forget=loader(seed=2)), check, WriteReport("report")])
    trainer.fit(SomebodysModule(), loader(seed=1))
    return check


def test_an_audit_that_fails_without_an_attack_is_recorded_and_the_others_go_on() -> None:
    with pytest.warns(UserWarning, match="Audit `Blind` failed, and the fit goes on without it: KeyError: 'label'"):
        check = audited(Measure({"p": AnswerProbability()}), Blind(0))
    assert [(f.who, f.subject, f.step) for f in check.failures] == [
        ("the audit Blind", "original", 0),
        ("the audit Blind", "unlearned", 6),
    ]
    assert {(o.attack, o.metric) for o in check.observations} == {("none", "p"), ("int4", "p")}
    report = RobustnessReport.load("report")
    assert not any(recovery.is_verdict for recovery in report.recoveries)
    assert "the audit Blind failed (KeyError: 'label')" in report.summary["deployment"]


def test_an_audit_that_fails_under_an_attack_ends_the_attack_there_and_is_named() -> None:
    with pytest.warns(UserWarning, match="Attack `int4` failed, and the fit goes on without it: KeyError: 'label'"):
        check = audited(Blind(3))
    assert [f.words for f in check.failures] == ["failed at 4 bits in the audit Blind (KeyError: 'label')"]


def test_a_check_that_can_measure_nothing_is_refused_at_the_start() -> None:
    with (
        pytest.warns(UserWarning, match="Audit `Blind` failed"),
        pytest.raises(RuntimeError, match=r"every audit failed: the audit Blind failed \(KeyError: 'label'\)"),
    ):
        audited(Blind(0))


def test_without_any_audit_left_the_fit_goes_on_to_its_end() -> None:
    with pytest.warns(UserWarning, match="Audit `Blind` failed"):
        check = audited(Blind(2))
    assert [(f.who, f.step) for f in check.failures] == [("the audit Blind", 6)]
    assert RobustnessReport.load("report").summary["worst_deployment"] is None


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_is_no_error_goes_through_with_all_restored(kind: type[BaseException]) -> None:
    def happens() -> None:
        raise kind

    module = SomebodysModule()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    _, error = fit(AtAPoint(happens, after_steps=0), module=module)
    assert isinstance(error, SystemExit if kind is KeyboardInterrupt else kind)
    assert all(torch.equal(module.state_dict()[name], value) for name, value in before.items())


SCRIPT = """
import sys
sys.path[:0] = {path!r}
from test_early_end import AtAPoint, fit, kill
_, error = fit(AtAPoint(kill))
raise error
"""


@pytest.mark.slow
def test_the_process_exits_with_143() -> None:
    path = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    done = subprocess.run([sys.executable, "-c", SCRIPT.format(path=path)], capture_output=True, check=False)
    assert done.returncode == 143, done.stderr
    assert Path("report/report.html").exists()
