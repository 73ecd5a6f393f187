from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import wraps
from typing import Any

import torch

from lightning_unlearn.runtime import autocast_of_now, without_autocast

Enter = Callable[..., AbstractContextManager[Iterator[float]]]


def around_autocast(enter: Enter) -> Enter:
    """Let an attack be the same inside ``torch.autocast``, which its caller may have entered for the whole of it.

    Autocast keeps each weight as it first cast it, until its outermost block is left: who attacks and measures inside one
    block would measure the network before the attack. So casts are forgotten wherever an attack has changed weights, or
    put them back. What an attack computes itself is in the precision of the weights, and its loss in that of the caller.

    Args:
        enter: ``__call__`` of an attack.
    """

    @wraps(enter)
    @contextmanager
    def entered(*args: Any, loss: Callable[[Any], Any] | None = None, **kwargs: Any) -> Iterator[Iterator[float]]:
        mixed, own = autocast_of_now(), loss

        def mixed_loss(batch: Any) -> Any:
            assert own is not None
            with mixed():
                return own(batch)

        with ExitStack() as stack:
            stack.callback(torch.clear_autocast_cache)
            with without_autocast():
                points = stack.enter_context(enter(*args, loss=own and mixed_loss, **kwargs))
            yield _each(points)

    return entered


def _each(points: Iterator[float]) -> Iterator[float]:
    while True:
        with without_autocast():
            point = next(points, None)
        torch.clear_autocast_cache()
        if point is None:
            return
        yield point
