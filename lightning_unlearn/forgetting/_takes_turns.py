from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from typing_extensions import override

from lightning_unlearn.engine import callbacks_of
from lightning_unlearn.forgetting._bilevel_unlearn import BilevelUnlearn
from lightning_unlearn.forgetting._turns import Turns
from lightning_unlearn.forgetting._unlearn import Unlearn


class TakesTurns(Turns, pl.Callback):
    """Says of each optimizer step of a fit what it is for; every :class:`Unlearn` of the trainer asks it.

    In a step that forgets, the gradient of the fit is dropped, and the step follows the forget gradient alone. In a step
    that learns, no forget micro-batch is drawn, and the step is the fit's own. The fit runs its ``training_step`` in all of
    them, since no callback can keep it from that: turns save forget passes, and no passes of the fit.

    Turns depend on the number of the step alone, so that a resumed fit goes on with them.

    Raises:
        ValueError: In ``setup``, without an :class:`Unlearn`.
        NotImplementedError: In ``setup``, beside another callback that takes turns; beside ``Unlearn(optimizer=...)``, whose
            steps are its own, and ``Unlearn(under_retain=True)``, whose forget steps learn; beside :class:`BilevelUnlearn`,
            whose inner steps are part of every step.

    Example:
        >>> from lightning_unlearn.forgetting import Turn
        >>> class EveryOther(TakesTurns):
        ...     '''Forget, learn, forget, learn.'''
        ...
        ...     def turn(self, step):
        ...         return Turn.LEARN if step % 2 else Turn.FORGET
        >>> [EveryOther().turn(step).value for step in range(3)]
        ['forget', 'learn', 'forget']
    """

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what cannot work."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        who, found = type(self).__name__, callbacks_of(trainer, Unlearn)
        if not found:
            raise ValueError(
                f"`{who}` should find an `Unlearn` whose steps it gives turns. Found none. Add `Unlearn(...)` to the "
                f"callbacks, or leave `{who}` out."
            )
        everybody: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        others = [type(c).__name__ for c in everybody if isinstance(c, Turns) and c is not self]
        bilevel = ["BilevelUnlearn"] * any(isinstance(c, BilevelUnlearn) for c in found)
        private = ["Unlearn(optimizer=...)"] * any(c.optimizer is not None for c in found)
        retain = ["Unlearn(under_retain=True)"] * any(c.under.retain for c in found)
        for other in [*others, *bilevel, *private, *retain]:
            raise NotImplementedError(
                f"`{who}` should be the only one that says which steps forget, in one optimizer. Found `{other}`. Leave one "
                "of the two out."
            )
