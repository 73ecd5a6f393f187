"""What breaks off on the way into isolation leaves no trace, as what breaks off inside of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from _modules import SomebodysModule
from torch import nn

from lightning_unlearn.engine import _isolation, isolated, state_kept


class BreaksOff(set[int]):
    """Ctrl-C comes when something has just been put in."""

    def update(self, *others: Any) -> None:
        super().update(*others)
        raise KeyboardInterrupt


def too_large(module: nn.Module) -> Callable[[], None]:
    raise torch.OutOfMemoryError("the copies of what modules keep")


def with_gradients() -> tuple[SomebodysModule, list[Any]]:
    module = SomebodysModule()
    module(torch.ones(2, 8)).sum().backward()
    return module, [p.grad for p in module.parameters()]


@pytest.mark.parametrize("place", range(len(_isolation.REMEMBERED) + 1))
def test_gradients_are_there_again_wherever_the_way_in_breaks_off(place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    module, gradients = with_gradients()
    remembered = [*_isolation.REMEMBERED[:place], too_large, *_isolation.REMEMBERED[place:]]
    monkeypatch.setattr(_isolation, "REMEMBERED", remembered)
    with pytest.raises(torch.OutOfMemoryError), isolated(None, module):  # type: ignore[arg-type]
        pass
    assert all(p.grad is gradient for p, gradient in zip(module.parameters(), gradients, strict=True))


@pytest.mark.parametrize("enter", [lambda module: isolated(None, module), state_kept], ids=["isolated", "state_kept"])
def test_ctrl_c_on_the_way_in_does_not_let_later_passes_move_the_module(
    enter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, gradients = with_gradients()
    monkeypatch.setattr(_isolation, "_kept", BreaksOff())
    with pytest.raises(KeyboardInterrupt), enter(module):
        pass
    assert not _isolation._kept
    assert all(p.grad is gradient for p, gradient in zip(module.parameters(), gradients, strict=True))


@pytest.mark.parametrize("place", range(len(_isolation.REMEMBERED) + 1))
def test_all_else_is_restored_where_something_cannot_be(place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def unrestorable(module: nn.Module) -> Callable[[], None]:
        def restore() -> None:
            raise RuntimeError("it cannot be written to")

        return restore

    module, gradients = with_gradients()
    module.register_buffer("seen", torch.zeros(()))
    monkeypatch.setattr(
        _isolation, "REMEMBERED", [*_isolation.REMEMBERED[:place], unrestorable, *_isolation.REMEMBERED[place:]]
    )
    states = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="it cannot be written to"), isolated(None, module):  # type: ignore[arg-type]
        module.eval().requires_grad_(False)
        module.seen.add_(torch.rand(()))
    assert all(p.grad is gradient for p, gradient in zip(module.parameters(), gradients, strict=True))
    assert all(p.requires_grad for p in module.parameters())
    assert module.training
    assert module.seen == 0
    assert torch.equal(torch.get_rng_state(), states)


def test_a_buffer_that_was_expanded_is_put_back() -> None:
    module = nn.Linear(2, 2)
    module.register_buffer("scale", torch.ones(1, 1).expand(2, 3))
    with state_kept(module):
        module.scale[:1, :1] += 1
        assert module.scale.tolist() == [[2, 2, 2]] * 2
    assert module.scale.tolist() == [[1, 1, 1]] * 2
