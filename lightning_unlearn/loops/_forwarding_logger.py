from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch.loggers import Logger
from typing_extensions import override


class ForwardingLogger(Logger):
    """Hands what callbacks log to the logs of somebody else's loop.

    Args:
        send: Takes values by name, and the number of optimizer steps.
    """

    def __init__(self, send: Callable[[dict[str, float], int], object]) -> None:
        super().__init__()
        self._send = send

    @property
    @override
    def name(self) -> None:
        """None: the loop's own loggers have names."""

    @property
    @override
    def version(self) -> None:
        """None."""

    @override
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Hand them on, but for the epoch, which the loop logs itself."""
        values = {name: float(value) for name, value in metrics.items() if name != "epoch"}
        if values:
            self._send(values, step or 0)

    @override
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The loop logs its own."""
