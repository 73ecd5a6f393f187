from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import lightning.pytorch as pl

from lightning_unlearn.audits import read_states
from lightning_unlearn.data import in_order
from lightning_unlearn.engine import GradientEngine, callbacks_of, decided_readout
from lightning_unlearn.forgetting._forget_source import forget_source
from lightning_unlearn.forgetting._unlearn import Unlearn
from lightning_unlearn.objectives import Objective
from lightning_unlearn.prediction import Prediction
from lightning_unlearn.readouts import Readout

Kind = TypeVar("Kind", bound=Objective)


@dataclass(frozen=True)
class ObjectiveInFit(Generic[Kind]):
    """An objective that a fit forgets by, for the callback that serves it.

    Args:
        objective: The objective, perhaps inside another one.
        unlearn: The callback that forgets by it.
        trainer: Of the fit.
        who: The callback that serves it, for errors.
    """

    objective: Kind
    unlearn: Unlearn
    trainer: pl.Trainer
    who: str

    def forget(self) -> Iterable[Any]:
        """What must go."""
        return forget_source(self.trainer, self.unlearn.forget, self.who)[0]

    def readout(self, module: pl.LightningModule) -> Readout:
        """How the objective's predictions are read."""
        return decided_readout(self.trainer, module, self.unlearn.readout)

    def read(self, module: pl.LightningModule, loader: Iterable[Any]) -> list[Prediction]:
        """Hidden states of all of ``loader``, in order, as the network gives them now. Collective."""
        readout, engine = self.readout(module), GradientEngine(module, self.trainer)
        return read_states(readout.find_network(module), readout=readout, batches=in_order(loader), engine=engine)


def objectives_in(trainer: pl.Trainer, kind: type[Kind], who: str) -> list[ObjectiveInFit[Kind]]:
    """Every objective of one class that the trainer forgets by, also those inside others.

    Args:
        trainer: Of the fit.
        kind: The class.
        who: The callback that serves such objectives, for errors.

    Raises:
        ValueError: If there is none.
    """
    callbacks = callbacks_of(trainer, Unlearn)
    parts = [(part, c) for c in callbacks for part in c.objective.modules() if isinstance(part, kind)]
    if not parts:
        named = ", ".join(f"`{c.objective!r}`" for c in callbacks) or "no `Unlearn`"
        raise ValueError(
            f"`{who}` should find an `Unlearn` that forgets by `{kind.__name__}`. Found {named}. Add "
            f"`Unlearn({kind.__name__}(...), readout=HiddenStateReadout(...))` to the callbacks, or leave `{who}` out."
        )
    return [ObjectiveInFit(part, callback, trainer, who) for part, callback in parts]
