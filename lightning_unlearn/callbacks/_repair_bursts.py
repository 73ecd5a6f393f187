from __future__ import annotations

from collections.abc import Sequence
from math import isinf
from typing import Any, ClassVar

import lightning.pytorch as pl
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.data import DataSource
from lightning_unlearn.engine import Row
from lightning_unlearn.forgetting import TakesTurns, Turn
from lightning_unlearn.functional.settings import check_whole
from lightning_unlearn.readouts import Readout
from lightning_unlearn.selectors import Choice, Selector
from lightning_unlearn.transforms import Step, TrainOnly


class RepairBursts(TakesTurns, TrainOnly):
    r"""Forget without looking at what must stay, and repair it in a few short bursts (k-FPF).

    Of :math:`N` steps, the ``steps`` before each of :math:`N/k, 2N/k, \dots, N` are a burst: they follow the gradient of the
    fit alone, and move only the parameters that are chosen. All other steps follow the forget gradient alone. With no
    burst, the fit forgets and repairs nothing. With a burst of one step for every two steps and ``pattern="*"``, forgetting
    and learning alternate. The optimizer's moments go on from one kind of step to the next.

    It is what a retain loss in each step, and every guard, should be compared with. Publicly, a repair replaces the retain
    pass of each step, so that it costs half; here the fit runs its pass in each step all the same.

    **From a part of the paper.** Which parameters the authors repair is rebuilt: those that drift most between tasks, which
    ``selector=ModuleDrift()`` scores.

    Args:
        bursts: How many, :math:`k`.
        steps: Optimizer steps of each.
        pattern: What a burst may move, as in :class:`TrainOnly`. Defaults to everything, without a ``selector``.
        selector: Scores what a burst may move, instead of ``pattern``.
        choice: Which scores are moved.
        forget: What must go, if the selector looks at it.
        retain: What must stay, if the selector looks at it.
        readout: How to run the network for the selector.

    Raises:
        ValueError: When the fit starts, if its number of steps is not known, or smaller than that of all bursts; and as
            :class:`TrainOnly`.
        NotImplementedError: As :class:`~lightning_unlearn.forgetting.TakesTurns` and :class:`TrainOnly`.

    Example:
        >>> repair = RepairBursts(bursts=4, steps=10, pattern=["head", "norm"])  # Trainer(callbacks=[unlearn, repair])

    References:
        Zhao et al., `Does Continual Learning Equally Forget All Parameters? <https://arxiv.org/abs/2304.04158>`_ (FPF and
        k-FPF), 2023.
    """

    prefix: ClassVar[str] = "repair_bursts"

    def __init__(
        self,
        bursts: int = 4,
        steps: int = 10,
        pattern: str | list[str] | None = None,
        *,
        selector: Selector | None = None,
        choice: Choice | None = None,
        forget: DataSource | None = None,
        retain: DataSource | None = None,
        readout: Readout | None = None,
    ) -> None:
        check_whole("bursts", bursts, least=0)
        check_whole("steps", steps)
        chosen: Any = {"selector": selector, "choice": choice, "forget": forget, "retain": retain, "readout": readout}
        super().__init__("*" if pattern is None and selector is None else pattern, **chosen)
        self.bursts, self.steps = bursts, steps
        self._total: float = 0

    @property
    def state_key(self) -> str:
        return f"RepairBursts[{self.bursts} x {self.steps}, {self._mask!r}]"

    @override
    def turn(self, step: int) -> Turn:
        ends = [round(number * self._total / self.bursts) for number in range(1, self.bursts + 1)]
        return Turn.LEARN if any(end - self.steps <= step < end for end in ends) else Turn.FORGET

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self._trainer, self._total = trainer, 0

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Space the bursts over the fit. A resumed one keeps those of its checkpoint, also if it takes more steps."""
        super().on_train_start(trainer, pl_module)
        self._total = self._take_restored().get("total") or trainer.estimated_stepping_batches
        if self.bursts and (isinf(self._total) or self._total < self.bursts * self.steps):
            raise ValueError(
                f"A fit with `RepairBursts` should take at least {self.bursts * self.steps} steps, {self.bursts} bursts of "
                f"{self.steps}. Found {self._total}. Set `Trainer(max_steps=...)`, or take fewer or shorter bursts."
            )

    @override
    def wanted(self, step: Step) -> list[list[Tensor]]:
        return super().wanted(step) if self._repairs else []

    @override
    def after(self, step: Step) -> None:
        if self._repairs:
            super().after(step)

    @override
    def allowed(self, direction: Row, params: Sequence[Tensor]) -> Row:
        return super().allowed(direction, params) if self._repairs else direction

    @override
    def leaves_alone(self, param: Tensor) -> bool:
        return False  # not in all steps of the fit

    @override
    def saved(self) -> dict[str, Any]:
        return {**super().saved(), "total": self._total}

    @property
    def _repairs(self) -> bool:
        return self.turn(self._trainer.global_step) is Turn.LEARN
