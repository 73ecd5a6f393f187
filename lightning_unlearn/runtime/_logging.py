from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def without_logging(module: nn.Module) -> Iterator[None]:
    """Mute ``self.log``, ``self.log_dict`` and ``self.logger`` of a LightningModule: extra passes must not be logged.

    Any other module has nothing to mute.
    """
    # Attributes of the instance hide the methods of the class. A module that has its own there gets them back.
    # Written to `__dict__`, which passes by `nn.Module.__setattr__`.
    attributes = module.__dict__
    before: dict[str, Any] = {name: attributes[name] for name in ("log", "log_dict") if name in attributes}
    attributes["log"] = attributes["log_dict"] = _ignore
    trainer: Any = getattr(module, "_trainer", None)
    loggers = getattr(trainer, "_loggers", None)
    if loggers:
        # Code such as `self.logger.experiment.add_image(...)` goes past `self.log`: it gets a logger that writes nothing.
        trainer._loggers = [_Silent() for _ in loggers]
    try:
        yield
    finally:
        for name in ("log", "log_dict"):
            attributes.pop(name, None)
        attributes.update(before)
        if loggers:
            trainer._loggers = loggers


def _ignore(*args: Any, **kwargs: Any) -> None:
    return None


class _Silent:
    """Has every attribute and every method, and none of them does anything."""

    def __getattr__(self, name: str) -> Any:
        # Not the private protocols of Python, such as `__deepcopy__`: who asks for these takes what is found seriously.
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self
