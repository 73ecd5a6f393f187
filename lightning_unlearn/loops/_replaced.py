from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def replaced(owner: Any, name: str, wrap: Callable[[Any], Any]) -> Iterator[None]:
    """Let the method ``name`` of one object be what ``wrap`` makes of it; afterwards it is what it was.

    Args:
        owner: The object. Others of its class keep theirs.
        name: Of the method.
        wrap: From the method, bound, to another one.

    Example:
        >>> class Loop:
        ...     def step(self):
        ...         return "step"
        >>> loop = Loop()
        >>> with replaced(loop, "step", lambda step: lambda: f"wrapped {step()}"):
        ...     loop.step()
        'wrapped step'
        >>> loop.step(), vars(loop)
        ('step', {})
    """
    own = vars(owner)
    had, before = name in own, own.get(name)  # somebody may have wrapped it before us
    setattr(owner, name, wrap(getattr(owner, name)))
    try:
        yield
    finally:
        if had:
            setattr(owner, name, before)
        else:
            delattr(owner, name)
