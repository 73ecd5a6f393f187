"""Attacks and fits with `Unlearn(under=...)`, for tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, ClassVar, Literal

import torch
from _modules import SomebodysModule, loader, quiet
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from lightning_unlearn import Bounded, GradientAscent, GradientTransform, Unlearn
from lightning_unlearn.attacks import Attack
from lightning_unlearn.engine import Row

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


class KeepsRows(GradientTransform):
    """Leaves the forget gradient as it is, and keeps a copy of it, step by step."""

    def __init__(self) -> None:
        self.rows: list[dict[Tensor, Tensor]] = []

    def of(self, gradient: Tensor, param: Tensor) -> Tensor:
        return gradient

    def __call__(self, row: Row, params: Any) -> Row:
        self.rows.append({p: g.detach().clone() for p, g in zip(params, row, strict=True) if g is not None})
        return super().__call__(row, params)


def forget_loss(module: nn.Module, batch: Any) -> Tensor:
    """What ``forgetting`` minimises on ``SomebodysModule``, written by hand."""
    return torch.relu(BOUND - F.cross_entropy(module(batch[0]), batch[1]))


def assert_first_step_is(
    row: list[Tensor],
    under: dict[str, Attack],
    *,
    accumulate: int = 1,
    clip: float | None = None,
    own_lr: float | None = None,
    callbacks: Any = (),
) -> None:
    """The first step of a fit under attacks has this forget gradient, for body and head; and the step is along its sum
    with the retain gradient, clipped, or there is a second along it alone. Each element of all is compared.
    """
    kept, module = KeepsRows(), SomebodysModule("sgd")
    own = {} if own_lr is None else {"optimizer": lambda params: torch.optim.SGD(params, lr=own_lr)}
    settings = {"accumulate_grad_batches": accumulate, "gradient_clip_val": clip, "callbacks": list(callbacks)}
    fitted(forgetting(under=under, transforms=[kept], **own), module, max_steps=1, **settings)
    for p, by_hand in zip(forgotten(module), row, strict=True):
        assert_close(kept.rows[0][p], by_hand, rtol=0, atol=1e-6)

    start = SomebodysModule("sgd")
    optimizer = start.configure_optimizers()["optimizer"]
    for x, y in islice(loader(seed=1), accumulate):
        (F.cross_entropy(start(x), y) / accumulate).backward()
    for p, by_hand in zip(forgotten(start), row, strict=True):
        if own_lr is None:
            p.grad += by_hand
    if clip is not None:
        norm = torch.cat([p.grad.flatten() for p in forgotten(start)]).norm()
        assert norm > clip
        for p in forgotten(start):
            p.grad *= clip / norm
    optimizer.step()
    with torch.no_grad():
        for p, by_hand in zip(forgotten(start), row, strict=True):
            p -= (own_lr or 0.0) * by_hand
    for p, q in zip(module.parameters(), start.parameters(), strict=True):
        assert_close(p, q, rtol=0, atol=1e-7)


def forgotten(module: Any) -> list[nn.Parameter]:
    """The parameters of ``SomebodysModule`` that its output depends on."""
    return [*module.body.parameters(), *module.head.parameters()]


def forgetting(**kwargs: Any) -> Unlearn:
    given: dict[str, Any] = {"forget": loader(seed=2, n=24), "seed": 5}
    return Unlearn(Bounded(GradientAscent(), bound=BOUND), **{**given, **kwargs})


def fitted(unlearn: Unlearn, module: Any = None, **kwargs: Any) -> Any:
    """The module after six steps, and what was logged last."""
    module = SomebodysModule() if module is None else module
    trainer = quiet(callbacks=[unlearn, *kwargs.pop("callbacks", [])], **kwargs)
    trainer.fit(module, loader(seed=1))
    return module, trainer
