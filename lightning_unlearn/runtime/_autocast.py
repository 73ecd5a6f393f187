from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import torch

_KINDS = ("cpu", "cuda", "xpu", "mps")


@contextmanager
def without_autocast() -> Iterator[None]:
    """Compute in the precision of the tensors until the block is left."""
    with ExitStack() as stack:
        for kind in _KINDS:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def autocast_of_now() -> Callable[[], AbstractContextManager[None]]:
    """What enters the autocast that is on now, whenever it is called.

    Example:
        >>> layer = torch.nn.Linear(2, 2)
        >>> with torch.autocast("cpu", torch.bfloat16):
        ...     again = autocast_of_now()
        >>> with again():
        ...     layer(torch.ones(2)).dtype
        torch.bfloat16
    """
    on = [(kind, torch.get_autocast_dtype(kind)) for kind in _KINDS if torch.is_autocast_enabled(kind)]

    @contextmanager
    def entered() -> Iterator[None]:
        with ExitStack() as stack:
            for kind, dtype in on:
                stack.enter_context(torch.autocast(kind, dtype))
            yield

    return entered
