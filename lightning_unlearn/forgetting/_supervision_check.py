from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.prediction import Prediction


class SupervisionCheck:
    """Notice a forget set without a single supervised label: its loss is zero, and nothing would be forgotten.

    A batch without any, among others that have some, is fine.

    Args:
        engine: Says what the other ranks have seen.
        loader: The forget loader; once around it is enough to know.
    """

    def __init__(self, engine: GradientEngine, loader: Iterable[Any]) -> None:
        self._engine = engine
        self._enough = _length(loader)
        self._batches = 0
        self._rows = 0
        self._found = False

    def saw(self, said: Prediction) -> None:
        """Count what is supervised in a forget micro-batch."""
        self._batches += 1
        self._rows += len(said.labels)

    def check(self, *, is_end: bool = False) -> None:
        """Ask all ranks, until some label was found.

        Raises:
            ValueError: If none was, and all there is has been seen.
        """
        if self._found or not self._batches:
            return
        device = next(self._engine.module.parameters()).device
        rows: Tensor = self._engine.average(torch.tensor(float(self._rows), device=device))
        self._found = bool(rows)
        if self._found or (self._batches < self._enough and not is_end):
            return
        raise ValueError(
            f"The forget set should hold at least one supervised label. Found none in {self._batches} batches: every label "
            "is -100, or the first of its row, which nothing predicts. Nothing was forgotten. Check what masks the prompt, "
            "and whether `max_length` cuts the answers off."
        )


def _length(loader: Iterable[Any]) -> float:
    try:
        return len(loader)  # type: ignore[arg-type]
    except TypeError:
        return float("inf")
