from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import Enum

import lightning.pytorch as pl
from torch import Tensor


class Turn(Enum):
    """What an optimizer step is for: to forget, to learn what the fit trains on, or both, as usual."""

    BOTH = "both"
    FORGET = "forget"
    LEARN = "learn"


class Turns(ABC):
    """What :class:`Unlearn` knows of a callback that takes turns."""

    @abstractmethod
    def turn(self, step: int) -> Turn:
        """What optimizer step number ``step``, from 0, is for."""


def turn_of(trainer: pl.Trainer) -> Turn:
    """What the coming optimizer step of a fit is for."""
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next((c.turn(trainer.global_step) for c in callbacks if isinstance(c, Turns)), Turn.BOTH)


def only_learns(trainer: pl.Trainer, params: Sequence[Tensor], *, is_first: bool) -> bool:
    """Whether the coming step only learns. If it only forgets, the first ``Unlearn`` drops the gradients of the fit."""
    turn = turn_of(trainer)
    if turn is Turn.FORGET and is_first:  # to those after it, they are what was forgotten already
        for p in params:
            p.grad = None  # as `zero_grad` does: an optimizer then leaves alone what has no forget gradient
    return turn is Turn.LEARN
