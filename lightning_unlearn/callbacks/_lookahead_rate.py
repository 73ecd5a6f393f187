from __future__ import annotations

from collections.abc import Iterable
from math import isfinite
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.data import DataSource, in_order, loader_of
from lightning_unlearn.engine import GradientEngine, Row, decided_readout, isolated, move_
from lightning_unlearn.functional.settings import check_positive, check_whole
from lightning_unlearn.metrics import AnswerProbability
from lightning_unlearn.readouts import Readout
from lightning_unlearn.runtime import KeptTensors, eval_without_grad, local
from lightning_unlearn.transforms import Stage, Step, StepTransform


class LookaheadRate(StepTransform):
    r"""Make steps longer or shorter, whichever of two simulated steps forgets more and keeps more.

    Each step :math:`\Delta` that the optimizer takes is multiplied by a factor :math:`c`, which starts at 1. Every few steps
    two other factors are tried on the step at hand, and the better one is the factor from then on:

    .. math:: c \leftarrow \operatorname*{arg\,max}_{c' \in \{c (1 + 1/m),\; c (1 - 1/m)\}} U(\theta + c' \Delta), \qquad
              U = \bar p(\text{retain}) - \bar p(\text{forget})

    with :math:`\bar p` the mean probability of a label, of data that are not trained on. Where both are alike, :math:`c`
    stays. A step is linear in the learning rate under SGD with momentum, Adam and AdamW, weight decay included, so that
    :math:`c` is a factor on the rate: the optimizer, its state and its scheduler are not touched. Guards have seen the step
    before, and restrictions hold for the simulated ones, too. Weights, buffers, modes and random generators are put back to
    the bit.

    With ``Unlearn(optimizer=...)``, it is the step of that optimizer. Costs two forward passes over both data every few
    steps, and a copy of the weights in each.

    Args:
        forget: Held-out data of what must go. A few dozen examples will do; every process runs all of them.
        retain: Held-out data of what must stay.
        divider: :math:`m`, larger than 1.
        every_n_steps: How often two factors are tried.
        most: The factor stays between this and its inverse.
        readout: How to run the network. Defaults to what fits the module, as in :class:`Unlearn`.

    Raises:
        NotImplementedError: In ``setup``, under FSDP1, and as every :class:`StepTransform`.
        RuntimeError: When training ends, if an optimizer step was not transformed.

    Example:
        >>> held_out = [(torch.zeros(2, 8), torch.tensor([0, 1]))]
        >>> lookahead = LookaheadRate(forget=held_out, retain=held_out)  # Trainer(callbacks=[unlearn, lookahead])

    References:
        The learning-rate control of Man et al., *Need is All You Need: Homeostatic Neural Networks Adapt to Concept Shift*,
        2022, and its code: there one branch moves the rate, and the label of a digit decides its direction.
    """

    stage: ClassVar[Stage] = Stage.PROXIMAL
    prefix: ClassVar[str] = "lookahead"
    works_on_flat_shards: ClassVar[bool] = False

    def __init__(
        self,
        forget: DataSource,
        retain: DataSource,
        divider: float = 10.0,
        every_n_steps: int = 10,
        most: float = 10.0,
        readout: Readout | None = None,
    ) -> None:
        super().__init__()
        for name, value in {"divider": divider, "most": most}.items():
            check_positive(name, value)
            if value <= 1:
                raise ValueError(f"`{name}` should be larger than 1. Found `{name} = {value!r}`.")
        check_whole("every_n_steps", every_n_steps)
        self.forget, self.retain, self.readout = forget, retain, readout
        self.divider, self.every_n_steps, self.most = divider, every_n_steps, most
        self.factor = 1.0

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what cannot work, and open the data."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self.factor = 1.0
            self._loaders = [loader_of(self.forget, "forget", trainer), loader_of(self.retain, "retain", trainer)]

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find out how to run the network, and take up the factor of a checkpoint."""
        super().on_train_start(trainer, pl_module)
        self.factor = self._take_restored().get("factor", 1.0)
        self._engine = GradientEngine(pl_module, trainer)
        self._reading = decided_readout(trainer, pl_module, self.readout)

    @override
    def wanted(self, step: Step) -> list[list[Tensor]]:
        return [[p] for p in step.params if p.requires_grad]

    @override
    @torch.no_grad()
    def after(self, step: Step) -> None:
        """Try two factors, if it is time, and stretch the step."""
        trainer = self._engine.trainer
        assert trainer is not None, "it is in the middle of a step"
        # The step is not counted yet.
        if (trainer.global_step + 1) % self.every_n_steps == 0:
            self._try(step, trainer)
        if self.factor != 1:
            for p in step.params:
                if step.snapshot.holds(p):
                    local(p).sub_(step.before(p)).mul_(self.factor).add_(step.before(p))

    @override
    def saved(self) -> dict[str, Any]:
        return {**super().saved(), "factor": self.factor}

    def _try(self, step: Step, trainer: pl.Trainer) -> None:
        ends = [self.factor * (1 + 1 / self.divider), self.factor * (1 - 1 / self.divider)]
        # As the first process sees it: another might round the other way.
        up, down = trainer.strategy.broadcast([self._utility_at(step, c, trainer) for c in ends])
        self._step_log = {"up": up, "down": down}
        if up != down and isfinite(up) and isfinite(down):
            self.factor = min(max(ends[0] if up > down else ends[1], 1 / self.most), self.most)
        self._step_log["factor"] = self.factor

    def _utility_at(self, step: Step, factor: float, trainer: pl.Trainer) -> float:
        params = step.params
        change: Row = [local(p) - step.before(p) if step.snapshot.holds(p) else None for p in params]
        change = step.allowed(change)
        kept = KeptTensors(params)
        try:
            for p in params:
                if step.snapshot.holds(p):
                    local(p).copy_(step.before(p))
            move_(self._engine, params, change, factor)
            with isolated(trainer, self._engine.module):  # type: ignore[arg-type]
                forget, retain = (self._known(loader) for loader in self._loaders)
        finally:
            kept.put_back()
        return retain - forget

    def _known(self, loader: Iterable[Any]) -> float:
        """The mean probability of a label, per example."""
        network, metric = self._reading.find_network(self._engine.module), AnswerProbability()
        scores = []
        with eval_without_grad(network):
            for batch in in_order(loader):
                read: Any = self._engine.forward(lambda b: self._reading(network, b), self._engine.to_device(batch))
                scores.append(metric.scores_of(read))
        return float(torch.cat(scores).mean())
