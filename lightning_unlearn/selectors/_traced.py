"""Passes in which modules are left out, disturbed, or put back to what they gave before."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_unlearn.models.layers import eager_if_compiled

Change = Callable[[nn.Module, Tensor | None, Tensor], Tensor]


class ChangesShape(ValueError):
    """A block gives something of another shape than it takes, and cannot be left out."""


@contextmanager
def skipped(network: nn.Module, block: nn.Module) -> Iterator[None]:
    """Let ``block`` give out what it takes, whatever its residual paths and norms are.

    Raises:
        ChangesShape: In a pass, if that is no answer it could give.
    """
    with _changed(network, [block], lambda _, states, out: _like(states, out)):
        yield


@contextmanager
def recorded(network: nn.Module, parts: Sequence[nn.Module], *, adds: bool) -> Iterator[dict[nn.Module, Tensor]]:
    """What each part gives in a pass, or, with ``adds``, what it adds to what it takes."""
    found: dict[nn.Module, Tensor] = {}

    def keep(part: nn.Module, states: Tensor | None, out: Tensor) -> Tensor:
        found[part] = out - _like(states, out) if adds else out.clone()
        return out

    with _changed(network, parts, keep):
        yield found


@contextmanager
def restored(network: nn.Module, clean: Mapping[nn.Module, Tensor], *, adds: bool) -> Iterator[None]:
    """Let each part give, or add, what it was recorded to."""
    with _changed(network, list(clean), lambda m, x, out: _like(x, out) + clean[m] if adds else clean[m]):
        yield


@contextmanager
def corrupted(network: nn.Module, first: nn.Module, noise: float, *, seed: int) -> Iterator[None]:
    """Add noise to what goes into ``first``, the same in every pass: ``noise`` times the standard deviation of it."""

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        states = _taken(args, kwargs)
        assert states is not None  # a block takes states
        # On the CPU: devices draw other numbers from the same seed.
        drawn = torch.randn(states.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
        scale = noise * states.float().std(correction=0)
        new = states + (drawn.to(states.device) * scale).to(states.dtype)
        swap = {id(states): new}
        return tuple(swap.get(id(a), a) for a in args), {key: swap.get(id(v), v) for key, v in kwargs.items()}

    handle = first.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        with eager_if_compiled(network):
            yield
    finally:
        handle.remove()


@contextmanager
def _changed(network: nn.Module, modules: Sequence[nn.Module], change: Change) -> Iterator[None]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        new = change(module, _taken(args, kwargs), output[0] if isinstance(output, tuple) else output)
        return (new, *output[1:]) if isinstance(output, tuple) else new

    handles = [module.register_forward_hook(hook, with_kwargs=True) for module in modules]
    try:
        with eager_if_compiled(network):
            yield
    finally:
        for handle in handles:
            handle.remove()


def _taken(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The hidden states that a module is called with."""
    named = kwargs.get("hidden_states")
    return next((v for v in (*args, named, *kwargs.values()) if isinstance(v, Tensor)), None)


def _like(states: Tensor | None, out: Tensor) -> Tensor:
    if states is None or states.shape != out.shape:
        found = None if states is None else tuple(states.shape)
        raise ChangesShape(
            f"A block should give states of the shape that it takes. Found {found} to {tuple(out.shape)}."
        )
    return states
