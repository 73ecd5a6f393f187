"""What is refused in other people's loops, by name and with the way out."""

from __future__ import annotations

from collections.abc import Sequence

import lightning.pytorch as pl

from lightning_unlearn.budgets import DisruptionBudget
from lightning_unlearn.callbacks import LookaheadRate, WriteReport
from lightning_unlearn.checks import RecoveryCheck
from lightning_unlearn.forgetting import Unlearn
from lightning_unlearn.runtime import lightning_class
from lightning_unlearn.transforms import StepTransform

TRIED = (Unlearn, StepTransform, RecoveryCheck, DisruptionBudget, WriteReport)
"""Those of our callbacks that were tried in other people's loops, but for `LookaheadRate`. A user's own are let through."""


def refuse_callbacks(callbacks: Sequence[pl.Callback]) -> None:
    """Refuse what is no callback of Lightning's, and what needs Lightning's own loop.

    Raises:
        TypeError: If one is no callback of Lightning.
        NotImplementedError: If one was written for Lightning's own loop.
    """
    for callback in callbacks:
        kind = type(callback)
        if lightning_class(callback, "Callback") is None:
            raise TypeError(
                f"`callbacks` should be callbacks of Lightning, such as `[Unlearn(NPO()), StepGuard()]`. Found "
                f"`{kind.__name__}`. Callbacks of your loop's own kind go where they always did."
            )
        owner = kind.__module__.split(".")[0]
        if owner in {"lightning", "pytorch_lightning"}:
            raise NotImplementedError(
                f"`{kind.__name__}` should find Lightning's own loop, which calls it, saves and stops. Found somebody "
                "else's. Use what that loop has for this, or `lightning.pytorch.Trainer`."
            )
        if owner == "lightning_unlearn" and (not isinstance(callback, TRIED) or isinstance(callback, LookaheadRate)):
            names = ", ".join(f"`{tried.__name__}`" for tried in TRIED)
            raise NotImplementedError(
                f"`{kind.__name__}` should be one of those that were tried in other people's loops: {names}. Use "
                "`lightning.pytorch.Trainer` for it."
            )
