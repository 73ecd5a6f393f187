from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.prediction import Likelihood


class SupervisionCheck:
    """Refuse a forget set without a supervised label: its loss is zero, and nothing would be forgotten.

    Single batches without a label are fine.

    Args:
        engine: Asks the other ranks.
        loader: The forget loader. After one pass over it the answer is known.
    """

    def __init__(self, engine: GradientEngine, loader: Iterable[Any]) -> None:
        self._engine = engine
        self._enough = _length(loader)
        self._batches = 0
        self._rows = 0
        self._found = False

    def saw(self, prediction: Likelihood) -> None:
        """Count what is supervised in a forget micro-batch."""
        self._batches += 1
        self._rows += prediction.example.numel()

    def check(self, *, is_end: bool = False) -> None:
        """Ask all ranks, until a label was found. Collective until then.

        Raises:
            ValueError: If none was found after one pass over the data, or at the end of the fit.
        """
        if self._found or not self._batches:
            return
        device = next(self._engine.module.parameters()).device
        # Over all ranks: one rank's share may have no label. All ranks then raise together, and none waits for another.
        rows: Tensor = self._engine.average(torch.tensor(float(self._rows), device=device, dtype=torch.float32))
        self._found = bool(rows)
        if self._found or (self._batches < self._enough and not is_end):
            return
        raise ValueError(
            f"The forget set should hold at least one supervised label. Found none in {self._batches} batches: every label "
            "is -100, or the first of its row, which no token predicts; or `training_step` returned `None`. Nothing was "
            "forgotten. Check what masks the prompt, and whether `max_length` cuts the answers off."
        )


def _length(loader: Iterable[Any]) -> float:
    try:
        return len(loader)  # type: ignore[arg-type]
    except TypeError:
        return float("inf")  # no length: only the end of the fit can tell
