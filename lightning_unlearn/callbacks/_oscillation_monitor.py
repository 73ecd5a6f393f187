from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.engine import GradientEngine, Row, decided_readout, hessian_product, isolated, refuse_own_rates
from lightning_unlearn.functional.likelihood import mean_or_zero
from lightning_unlearn.functional.settings import check_positive, check_whole
from lightning_unlearn.metrics import AnswerProbability
from lightning_unlearn.readouts import Readout
from lightning_unlearn.report.analysis.over_time import oscillation
from lightning_unlearn.runtime import eval_mode, eval_without_grad


class OscillationMonitor(pl.Callback):
    r"""Log whether a fit swings about its target, and how far its learning rate is from where it must.

    Every few optimizer steps the batch that comes next is looked at, in evaluation mode, before it is trained on:

    - ``oscillation/residual``, ``oscillation/swing``, ``oscillation/turns``: of the mean probability of its labels,
      over the last half of the looks so far. See :func:`~lightning_unlearn.report.analysis.over_time.oscillation`.
    - ``oscillation/edge``, where ``power_steps`` is positive: :math:`\eta \lambda / 2`, with :math:`\eta` the largest
      learning rate of the fit and :math:`\lambda` the largest eigenvalue, in size, of the Hessian of the cross-entropy of
      that batch, by power iteration. Plain gradient descent cannot settle above 1.

    A fit that goes on to swing feeds weak traces of what it should not learn, and an attack at a large rate finds traces
    that one at a small rate does not. So a number of robustness says little without the rate. Nothing is changed: a fit with
    the monitor equals the fit without, to the bit. Costs a forward pass for each look, and two passes and a copy of the
    weights for each power step.

    Args:
        every_n_steps: How often it looks.
        power_steps: Power iterations per look.
        size: Length of the finite difference of gradients, relative to that of the weights.
        readout: How to run the network. Defaults to what fits the module, as in :class:`Unlearn`.

    Example:
        >>> monitor = OscillationMonitor(every_n_steps=10, power_steps=5)  # Trainer(callbacks=[monitor])

    References:
        `Benign Oscillation of Stochastic Gradient Descent with Large Learning Rates <https://arxiv.org/abs/2310.17074>`_,
        2024. From its abstract and reviews; what is logged is ours.
    """

    def __init__(
        self, every_n_steps: int = 1, power_steps: int = 0, size: float = 1e-3, readout: Readout | None = None
    ) -> None:
        check_whole("every_n_steps", every_n_steps)
        check_whole("power_steps", power_steps, least=0)
        check_positive("size", size)
        self.every_n_steps, self.power_steps, self.size, self.readout = every_n_steps, power_steps, size, readout
        self.looks: list[tuple[int, float]] = []

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Nothing is left of an earlier fit."""
        if stage == "fit":
            self.looks = []

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Look, if it is time."""
        step = trainer.global_step
        # With accumulation there are several batches to a step.
        if step % self.every_n_steps or (self.looks and self.looks[-1][0] == step) or trainer.fit_loop._skip_backward:
            return
        readout = decided_readout(trainer, pl_module, self.readout)
        engine = GradientEngine(pl_module, trainer)
        with isolated(trainer, pl_module):
            self.looks.append((step, self._probability(engine, readout, batch)))
            edge = {"edge": self._edge(trainer, engine, readout, batch)} if self.power_steps else {}
        found = oscillation([step for step, _ in self.looks], [value for _, value in self.looks])
        over_time = {} if found is None else {name: getattr(found, name) for name in ("residual", "swing", "turns")}
        for name, value in {**over_time, **edge}.items():
            pl_module.log(f"oscillation/{name}", value, batch_size=1)

    @override
    def state_dict(self) -> dict[str, Any]:
        """The looks so far."""
        return {"looks": list(self.looks)}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with them."""
        self.looks = [(int(step), float(value)) for step, value in state_dict["looks"]]

    def _probability(self, engine: GradientEngine, readout: Readout, batch: Any) -> float:
        network = readout.find_network(engine.module)
        with eval_without_grad(network):
            prediction: Any = engine.forward(lambda b: readout(network, b), batch)
        known = AnswerProbability().scores_of(prediction)[prediction.supervised()]
        return float(engine.average(mean_or_zero(known.float())))

    def _edge(self, trainer: pl.Trainer, engine: GradientEngine, readout: Readout, batch: Any) -> float:
        groups = trainer.optimizers[0].param_groups
        refuse_own_rates(groups, "OscillationMonitor(power_steps=...)")
        params: list[Tensor] = [p for group in groups for p in group["params"] if p.requires_grad]
        network = readout.find_network(engine.module)

        def gradient() -> Row:
            return engine.row(lambda b: mean_or_zero(readout(network, b).token_nll()), [batch], params)[0]

        with eval_mode(network):
            here = gradient()
            direction = here
            sharpness = 0.0
            for _ in range(self.power_steps):
                product = hessian_product(engine, gradient, here, direction, params, size=self.size)
                lengths = engine.gramian([direction, product], params)
                sharpness = float((lengths[1, 1] / lengths[0, 0].clamp_min(torch.finfo(lengths.dtype).tiny)).sqrt())
                direction = product
        return sharpness * max(float(group["lr"]) for group in groups) / 2
