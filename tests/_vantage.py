"""Attacks and fits with `Unlearn(under=...)`, for tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import torch
from _modules import SomebodysModule, loader, quiet
from torch import nn

from lightning_unlearn import Bounded, GradientAscent, Unlearn
from lightning_unlearn.attacks import Attack

BOUND = 3.0


class Nothing(Attack):
    """An attack that leaves the network as it is, and keeps what it was given."""

    family: ClassVar[str] = "nothing"
    unit: ClassVar[str] = ""
    needs_data: Literal["attack", "forget", "judged", "retain"] | None = "attack"

    def __init__(self) -> None:
        self.given: list[list[Any]] = []

    @contextmanager
    def __call__(self, network: nn.Module, *, batches: Any = (), loss: Any = None, engine: Any = None) -> Iterator[Any]:
        self.given.append(list(batches))
        yield iter((0,))


class Shift(Attack):
    """Adds a number to every weight; with ``SGDStep`` the simplest attacks whose gradient can be written by hand."""

    family: ClassVar[str] = "shift"
    unit: ClassVar[str] = ""

    def __init__(self, by: float = 0.1) -> None:
        self.by = by

    @contextmanager
    def __call__(self, network: nn.Module, *, batches: Any = (), loss: Any = None, engine: Any = None) -> Iterator[Any]:
        saved = [p.detach().clone() for p in network.parameters()]
        try:
            with torch.no_grad():
                for p in network.parameters():
                    p.add_(self.by)
            yield iter((0,))
        finally:
            with torch.no_grad():
                for p, value in zip(network.parameters(), saved, strict=True):
                    p.copy_(value)


class Failing(Shift):
    """Shifts the weights, then raises in some of its calls."""

    def __init__(self, *fails_at: int) -> None:
        super().__init__()
        self.fails_at, self.calls = fails_at, 0

    @contextmanager
    def __call__(self, network: nn.Module, **kwargs: Any) -> Iterator[Any]:
        with super().__call__(network, **kwargs):
            self.calls += 1
            yield self._points()

    def _points(self) -> Iterator[int]:
        if self.calls - 1 in self.fails_at:
            raise RuntimeError("it broke")
        yield 0


def forgetting(**kwargs: Any) -> Unlearn:
    given: dict[str, Any] = {"forget": loader(seed=2, n=24), "seed": 5}
    return Unlearn(Bounded(GradientAscent(), bound=BOUND), **{**given, **kwargs})


def fitted(unlearn: Unlearn, module: Any = None, **kwargs: Any) -> Any:
    """The module after six steps, and what was logged last."""
    module = SomebodysModule() if module is None else module
    trainer = quiet(callbacks=[unlearn, *kwargs.pop("callbacks", [])], **kwargs)
    trainer.fit(module, loader(seed=1))
    return module, trainer
