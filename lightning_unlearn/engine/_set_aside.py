from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def gradients_set_aside(module: nn.Module, params: Iterable[Tensor] = ()) -> Iterator[None]:
    """Take every ``p.grad`` off and put the very same tensors back: a swap of pointers, not a copy.

    Args:
        module: Whose parameters are meant.
        params: Further parameters, such as those of an adapter that is held outside of ``module``.

    Example:
        >>> import torch
        >>> layer = nn.Linear(1, 1)
        >>> layer(torch.ones(1)).backward()
        >>> grad = layer.weight.grad
        >>> with gradients_set_aside(layer):
        ...     layer.weight.grad is None
        True
        >>> layer.weight.grad is grad
        True
    """
    saved: list[tuple[Tensor, Tensor | None]] = [(p, p.grad) for p in {*module.parameters(), *params}]
    for p, _ in saved:
        p.grad = None
    try:
        yield
    finally:
        for p, grad in saved:
            p.grad = grad


@contextmanager
def without_logging(module: nn.Module) -> Iterator[None]:
    """Let ``self.log`` and ``self.log_dict`` of a LightningModule do nothing: extra passes are not the user's."""
    # Set on the instance, where they hide the class's methods; a module that has its own there gets them back.
    attributes = module.__dict__
    before: dict[str, Any] = {name: attributes[name] for name in ("log", "log_dict") if name in attributes}
    attributes["log"] = attributes["log_dict"] = _ignore
    try:
        yield
    finally:
        for name in ("log", "log_dict"):
            attributes.pop(name, None)
        attributes.update(before)


def _ignore(*args: Any, **kwargs: Any) -> None:
    return None
