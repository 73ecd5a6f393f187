from __future__ import annotations

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_warn
from typing_extensions import override

from lightning_unlearn.forgetting import TakesTurns, Turn
from lightning_unlearn.functional.settings import check_whole


class PeriodicUnlearn(TakesTurns):
    """Forget in one optimizer step of every few, and do nothing but learn in the others: graceful forgetting.

    Step number ``every``, twice that, and so on follow the forget gradient alone; all others are the fit's own, to the bit.
    The forget data are drawn in those steps alone. To forget the examples that stand most in the way of what is learnt,
    give :class:`~lightning_unlearn.selectors.FisherConflict` as the order of :class:`ForgetRetainData`.

    Costs a forget pass in each of its steps. The pass of the fit in such a step is run, and its gradient dropped.

    **Reconstructed.** Neither the full text nor the code of the paper could be had; two summaries agree on the schedule.

    Args:
        every: One step of how many forgets. Larger than the number of steps, it is plain training, and a warning says so.

    Raises:
        ValueError: In ``setup``, without an :class:`Unlearn`.
        NotImplementedError: In ``setup``, beside what cannot take turns: see
            :class:`~lightning_unlearn.forgetting.TakesTurns`.

    Example:
        >>> periodic = PeriodicUnlearn(every=4)  # Trainer(callbacks=[Unlearn(GradientAscent()), periodic])
        >>> [periodic.turn(step).value for step in range(5)]
        ['learn', 'learn', 'learn', 'forget', 'learn']

    References:
        `Graceful Forgetting in Generative Language Models <https://arxiv.org/abs/2505.19715>`_ (LWF), 2025.
    """

    def __init__(self, every: int = 10) -> None:
        check_whole("every", every)
        self.every = every

    @override
    def turn(self, step: int) -> Turn:
        return Turn.LEARN if (step + 1) % self.every else Turn.FORGET

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say so if nothing was forgotten."""
        if trainer.global_step < self.every:
            rank_zero_warn(
                f"`PeriodicUnlearn(every={self.every})` should forget at least once. Found a fit of {trainer.global_step} "
                "steps: nothing was forgotten. Take more steps, or a smaller `every`."
            )
