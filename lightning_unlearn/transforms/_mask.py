from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import lightning.pytorch as pl
from torch import Tensor


class Mask(ABC):
    """Which weights of a module are trained: whole parameters, or some of their elements. All others stay."""

    def setup(self, trainer: pl.Trainer) -> None:
        """A fit begins: find the data, and forget what was of an earlier fit."""

    @abstractmethod
    def start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Parameters exist, sharded ones too. From now on it can be asked, in all processes alike."""

    @abstractmethod
    def stays(self, param: Tensor) -> bool:
        """Whether the whole of ``param`` stays as it is."""

    def elements(self, param: Tensor) -> Tensor | None:
        """If only some elements of ``param`` are trained: which, of those that this process holds."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """What a resumed fit must know."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what a checkpoint holds: after :meth:`setup`, and before the first question."""

    @abstractmethod
    def __repr__(self) -> str:
        """What is trained, in one line that is the same in every process and every fit."""
