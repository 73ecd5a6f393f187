from __future__ import annotations

from typing import TypeVar

import lightning.pytorch as pl

from lightning_unlearn.engine import callbacks_of
from lightning_unlearn.forgetting._unlearn import Unlearn
from lightning_unlearn.objectives import Objective

O = TypeVar("O", bound=Objective)  # noqa: E741


def objectives_in(trainer: pl.Trainer, kind: type[O], who: str) -> list[tuple[Unlearn, O]]:
    """Every objective of one class that the trainer forgets by, with its :class:`Unlearn`; also those inside others.

    Args:
        trainer: Of the fit.
        kind: The class.
        who: The callback that serves such objectives, for the error.

    Raises:
        ValueError: If there is none.
    """
    callbacks = callbacks_of(trainer, Unlearn)
    found = [(c, part) for c in callbacks for part in c.objective.modules() if isinstance(part, kind)]
    if not found:
        named = ", ".join(f"`{c.objective!r}`" for c in callbacks) or "no `Unlearn`"
        raise ValueError(
            f"`{who}` should find an `Unlearn` that forgets by `{kind.__name__}`. Found {named}. Add "
            f"`Unlearn({kind.__name__}(...), readout=HiddenStateReadout(...))` to the callbacks, or leave `{who}` out."
        )
    return found
