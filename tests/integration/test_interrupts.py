"""Ctrl-C, once or twice, at any moment of a check leaves the weights restored, in memory and in checkpoints."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from _modules import HostileModule, loader, quiet
from lightning.pytorch.callbacks import ModelCheckpoint, OnExceptionCheckpoint
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_unlearn import (
    GPTQ,
    Attack,
    BitsAndBytes,
    BucketFlips,
    GradientAscent,
    Quantize,
    RecoveryCheck,
    Relearn,
    Unlearn,
)
from lightning_unlearn.audits import Measure

# Lightning's own, about `OnExceptionCheckpoint`.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*was called without a model", "ignore:.*no last checkpoint", "ignore:Checkpoint directory"
)


@pytest.fixture(autouse=True)
def _as_in_a_terminal() -> Iterator[None]:
    """Lightning ignores Ctrl-C for good once it has seen one."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    sys.settrace(None)
    signal.signal(signal.SIGINT, before)


def control_file() -> str:
    torch.manual_seed(9)
    control = HostileModule()
    with torch.no_grad():
        for tensor in [*control.parameters(), *control.buffers()]:
            tensor.add_(1)
    torch.save(control.state_dict(), "control.pt")
    return "control.pt"


ATTACKS: dict[str, Callable[[], Attack]] = {
    "quantize": lambda: Quantize(bits=3, skip=()),
    "gptq": lambda: GPTQ(bits=3, batches=1),
    "nf4_kernel": lambda: BitsAndBytes("nf4"),
    "relearn_adapter": lambda: Relearn(steps=2, lr=1e-2),
    "relearn_full": lambda: Relearn(steps=2, lr=1e-2, mode="full"),
}


class Watched(RecoveryCheck):
    """The check of the original, with something switched on meanwhile."""

    pressing: Any = None

    def see_original(self, trainer: Any, pl_module: Any) -> None:
        with self.pressing:
            super().see_original(trainer, pl_module)


def fit(watch: Any) -> tuple[nn.Module, dict[str, Tensor], bool]:
    """A module whose fit was interrupted in its first check, what it held before, and whether it was interrupted."""
    module = HostileModule()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    check = Watched(
        {name: make() for name, make in ATTACKS.items()},
        audits=[Measure(), BucketFlips()],
        control=control_file(),
        probes={"forget": loader(seed=2, n=4), "retain": loader(seed=1, n=4)},
        attack_data=loader(seed=2, n=4),
    )
    check.pressing = watch
    saving = [OnExceptionCheckpoint("saved"), ModelCheckpoint("saved", filename="model", save_on_exception=True)]
    trainer = quiet(
        callbacks=[Unlearn(GradientAscent(), forget=loader(seed=2, n=4)), check, *saving],
        enable_checkpointing=True,
        max_steps=1,
        num_sanity_val_steps=0,
    )
    for path in Path("saved").glob("*"):
        path.unlink()
    try:
        trainer.fit(module, loader(seed=1, n=4), loader(seed=3, n=4))
    except SystemExit:
        return module, before, True
    return module, before, False


def assert_as_before(module: nn.Module, before: dict[str, Tensor], where: Any) -> None:
    files = list(Path("saved").glob("*.ckpt"))
    assert files, where
    saved = [torch.load(path, weights_only=True)["state_dict"] for path in files]
    for state in (module.state_dict(), *saved):
        assert all(torch.equal(state[name], value) for name, value in before.items()), where
    assert all(p.requires_grad for p in module.parameters()), where
    assert not any(m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m) for m in module.modules()), where


@contextmanager
def signals_at(calls: set[int], counted: list[int]) -> Iterator[None]:
    """Press Ctrl-C at these calls of whatever writes weights and puts things back."""
    patched = [(Tensor, "copy_"), (Tensor, "requires_grad_"), (RemovableHandle, "remove"), (Tensor, "clone")]
    originals = [(owner, name, getattr(owner, name)) for owner, name in patched]
    counted[:] = [0]

    def pressing(original: Any) -> Any:
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            counted[0] += 1
            if counted[0] in calls:
                signal.raise_signal(signal.SIGINT)
            return original(self, *args, **kwargs)

        return call

    for owner, name, original in originals:
        setattr(owner, name, pressing(original))
    try:
        yield
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)


def number_of_calls() -> int:
    counted: list[int] = []
    fit(signals_at(set(), counted))
    return counted[0]


@pytest.mark.parametrize("apart", [None, 1, 2, 7], ids=lambda n: "once" if n is None else f"twice, {n} apart")
@pytest.mark.parametrize("stride", [31, pytest.param(7, marks=pytest.mark.slow)], ids=lambda n: f"every {n}.")
def test_at_each_call_that_writes_weights_or_puts_something_back(stride: int, apart: int | None) -> None:
    calls = number_of_calls()
    assert calls > 100
    for n in range(1 + (apart or 0) % stride, calls + 1, stride):
        counted: list[int] = []
        module, before, interrupted = fit(signals_at({n} if apart is None else {n, n + apart}, counted))
        assert interrupted, n
        assert_as_before(module, before, n)


class Pressing:
    """Press Ctrl-C at the n-th line or call of our code and of contextlib's."""

    def __init__(self, n: int) -> None:
        self.n, self.seen, self.where = n, 0, ""

    def __enter__(self) -> None:
        sys.settrace(self.trace)

    def __exit__(self, *exception: object) -> None:
        sys.settrace(None)

    def trace(self, frame: Any, event: str, argument: Any) -> Any:
        file = frame.f_code.co_filename
        if "lightning_unlearn" not in file and not file.endswith("contextlib.py"):
            return None
        if "_interrupts.py" in file and "_receive" in frame.f_code.co_name:
            return None
        self.seen += 1
        if self.seen == self.n:
            self.where = f"{file}:{frame.f_lineno}"
            signal.raise_signal(signal.SIGINT)
        return self.trace


def lines(first: int, step: int) -> Iterator[int]:
    counting = Pressing(0)
    fit(counting)
    assert counting.seen > 1000
    yield from range(first, counting.seen, step)


@pytest.mark.parametrize("step", [4999, pytest.param(997, marks=pytest.mark.slow)])
def test_at_any_line(step: int) -> None:
    for n in lines(7, step):
        pressing = Pressing(n)
        module, before, interrupted = fit(pressing)
        if interrupted:
            assert_as_before(module, before, pressing.where)
        else:
            assert not pressing.where, pressing.where
