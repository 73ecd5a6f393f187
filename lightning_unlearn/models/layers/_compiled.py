from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn


def is_compiled(network: nn.Module) -> bool:
    """Whether any part of ``network`` is compiled, by ``module.compile()`` or ``torch.compile(module)``.

    Example:
        >>> network = nn.Sequential(nn.Linear(1, 1))
        >>> network[0].compile(backend="eager")
        >>> is_compiled(network)
        True
    """
    return any(True for _ in _compiled_parts(network))


@contextmanager
def eager_if_compiled(network: nn.Module) -> Iterator[None]:
    """Run the compiled parts of ``network`` eagerly, if there are any."""
    with _eager() if is_compiled(network) else nullcontext():
        yield


@contextmanager
def eager_if_inside_compiled(network: nn.Module, part: nn.Module | None) -> Iterator[None]:
    """Run compiled parts eagerly if ``part`` is inside one of them.

    A compiled graph ignores hooks that were registered after it was made, and keeps those that were there, even if they
    are removed later.
    """
    inside = any(module is part for compiled in _compiled_parts(network) for module in compiled.modules())
    with _eager() if inside else nullcontext():
        yield


def _compiled_parts(network: nn.Module) -> Iterator[nn.Module]:
    # `module.compile()` keeps the class and sets an attribute; `torch.compile(module)` puts a wrapper around it.
    return (m for m in network.modules() if m._compiled_call_impl is not None or hasattr(m, "_orig_mod"))


def _eager() -> AbstractContextManager[Any]:
    # `set_stance` takes effect when it is called, not when it is entered: call this in the `with` statement itself.
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance
