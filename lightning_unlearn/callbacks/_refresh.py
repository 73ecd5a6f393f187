from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.data import in_order
from lightning_unlearn.engine import (
    GradientEngine,
    Row,
    callbacks_of,
    clean_weights,
    decided_readout,
    gathered,
    move_,
    refuse_coarse_weights,
    refuse_manual_optimization,
    refuse_optimizers,
    refuse_sparse_gradients,
    root_mean_squares,
    sharded_like,
    show_original,
    strategy_kind,
)
from lightning_unlearn.forgetting import BilevelUnlearn
from lightning_unlearn.functional.settings import check_kind, check_not_negative, check_positive, check_whole
from lightning_unlearn.objectives import CrossEntropy, Objective
from lightning_unlearn.readouts import Readout
from lightning_unlearn.runtime import eval_mode, hash_of, local
from lightning_unlearn.transforms import StepChain


class Refresh(pl.Callback):
    r"""Before each step, unlearn its batch a little: the step then has to learn it again, towards flatter minima.

    Each tensor :math:`\theta_l` of the fit's optimizer moves up the gradient :math:`g` of the loss, by a step of relative
    size ``delta``:

    .. math:: \theta_l \leftarrow \theta_l + \frac{\delta}{1 + \lambda F_l}
              \Bigl( \frac{\|\theta_l\|}{\|g_l\|} \, g_l + \nu \operatorname{rms}(\theta_l) \, \xi \Bigr),
              \qquad \xi \sim \mathcal{N}(0, 1)

    Where ``fisher_weight`` :math:`\lambda` is positive, weights that mattered in earlier fits move less: at the end of each
    fit with this callback :math:`F \leftarrow \tau F + \sum_x p(x) \, g_x^2` over the examples :math:`x` that the fit has
    trained on, with :math:`p` the geometric mean of the token probabilities of a label. In a first fit :math:`F = 0`.

    Without noise and :math:`F` the loss of the batch rises by :math:`\delta \sum_l \|\theta_l\| \, \|g_l\|`, to first order.
    The pass runs on the network itself, and moves neither BatchNorm's statistics nor random generators. With several
    micro-batches a step, the first one is unlearned. A loss that is not finite moves nothing. The change is no step of the
    optimizer: restrictions (:class:`TrainOnly`) hold for it, a :class:`StepGuard` does not see it. That it makes relearning
    harder is a hypothesis.

    Costs one more pass for each of ``steps``; with ``fisher_weight``, one copy of the weights, and at the end of the fit one
    pass of its micro-batch for each example.

    **Unlike the paper's code**, the noise is relative to the root mean square of each tensor; there it is absolute.

    Args:
        steps: Refresh steps before each optimizer step (the paper's J).
        delta: Their relative size.
        fisher_weight: Weight of the Fisher information of earlier fits, :math:`\lambda`; 1e-3 in the paper. Off by default,
            for it matters from a second fit on.
        noise: Relative size of the noise, :math:`\nu`.
        fisher_decay: :math:`\tau`: what is kept of earlier fits. The paper's 1e-5 all but forgets them.
        objective: The loss that is unlearned. Defaults to :class:`CrossEntropy`.
        readout: How to run the network. Defaults as in :class:`Unlearn`.
        seed: Seed of the noise.

    Raises:
        NotImplementedError: In ``setup``, under manual optimization, DeepSpeed or FSDP1, and beside
            :class:`BilevelUnlearn`; when training starts, with LBFGS or sparse gradients.
        ValueError: When training starts, if the precision of the weights would swallow the change: at 1e-5, a quarter of a
            percent of bf16 weights would move.

    Example:
        >>> refresh = Refresh(delta=1e-5)  # Trainer(callbacks=[unlearn, refresh])

    References:
        Wang et al., `A Unified and General Framework for Continual Learning <https://arxiv.org/abs/2403.13249>`_, 2024.
    """

    def __init__(
        self,
        steps: int = 1,
        delta: float = 1e-5,
        fisher_weight: float = 0.0,
        noise: float = 1e-3,
        *,
        fisher_decay: float = 1e-5,
        objective: Objective | None = None,
        readout: Readout | None = None,
        seed: int = 0,
    ) -> None:
        check_whole("steps", steps)
        check_positive("delta", delta)
        check_not_negative("fisher_weight", fisher_weight)
        check_not_negative("noise", noise)
        check_not_negative("fisher_decay", fisher_decay)
        self.steps, self.delta, self.noise, self.seed = steps, delta, noise, seed
        self.fisher_weight, self.fisher_decay = fisher_weight, fisher_decay
        self.objective = CrossEntropy() if objective is None else objective
        check_kind("objective", self.objective, Objective, "CrossEntropy()")
        self.readout = readout
        self.fisher: dict[str, Tensor] = {}
        self._before_end: dict[str, Tensor] | None = None
        self._is_between_steps, self._has_shown = True, False

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what cannot work."""
        if stage != "fit":
            return
        self._before_end = None
        refuse_manual_optimization(pl_module, "Refresh")
        if (kind := strategy_kind(trainer)) in ("fsdp1", "deepspeed"):
            found = {"fsdp1": "`FSDPStrategy` (FSDP1), which flattens", "deepspeed": "`DeepSpeedStrategy`, which keeps"}
            raise NotImplementedError(
                f"`Refresh` should see each parameter by itself. Found {found[kind]} them. Use `strategy='ddp'` or "
                "`ModelParallelStrategy` (FSDP2)."
            )
        if callbacks_of(trainer, BilevelUnlearn):
            raise NotImplementedError(
                "`Refresh` should be the only one that moves weights before a step. Found `BilevelUnlearn`, whose "
                "gradients are those of the weights that it has moved. Leave one of the two out."
            )

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find out how to run the network."""
        refuse_optimizers(trainer, "Refresh")
        refuse_sparse_gradients(pl_module, "Refresh")
        refuse_coarse_weights(_params(trainer), "Refresh", self.delta)
        if self._before_end is not None:  # of a checkpoint: a fit that goes on after its end adds its own data once
            self.fisher, self._before_end = self._before_end, None
        self._engine = GradientEngine(pl_module, trainer)
        self._reading = decided_readout(trainer, pl_module, self.readout)
        self._network = self._reading.find_network(pl_module)
        self._is_between_steps, self._has_shown = True, False

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Unlearn the first micro-batch of a step."""
        # SWA renews BatchNorm's statistics in an epoch of its own.
        if not self._is_between_steps or trainer.fit_loop._skip_backward:
            return
        self._is_between_steps = False
        if not self._has_shown:
            show_original(trainer, pl_module)
            self._has_shown = True
        params = _params(trainer)
        with clean_weights(pl_module):
            for number in range(self.steps):
                row = self._change(batch, params, hash_of(self.seed, trainer.global_step, number))
                # Of a loss that is not finite. A gradient scaler will skip the step, and could not take this back.
                if not self._engine.is_finite(row):
                    break
                for restriction in StepChain.of(trainer).restrictions:
                    row = restriction.allowed(row, params)
                move_(self._engine, params, row, self.delta)

    @override
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """The next micro-batch is the first of a step."""
        self._is_between_steps = True

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add to the Fisher information."""
        loader = trainer.train_dataloader
        if not self.fisher_weight or not isinstance(loader, Iterable):
            return
        params = [p for p in pl_module.parameters() if p.requires_grad]
        # In half precision squares vanish, and a sum of many of them stands still.
        found = [torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32)).detach() for p in params]
        # All examples on every process: each has to come to the same.
        with eval_mode(pl_module):
            for batch in in_order(loader):
                for row, probability in self._example_gradients(self._engine.to_device(batch), params):
                    _add_squares_(found, row, probability)
        names = {id(p): name for name, p in pl_module.named_parameters()}
        self._before_end = dict(self.fisher)
        for p, new in zip(params, found, strict=True):
            whole, name = gathered(new).cpu(), names[id(p)]
            self.fisher[name] = whole.add_(self.fisher.get(name, torch.zeros(())), alpha=self.fisher_decay)

    @override
    def state_dict(self) -> dict[str, Any]:
        """The Fisher information, by name: whole tensors; and what it was before the fit's end."""
        before = {} if self._before_end is None else {"before_end": dict(self._before_end)}
        return {"fisher": dict(self.fisher), **before}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it up."""
        self.fisher = dict(state_dict["fisher"])
        self._before_end = state_dict.get("before_end")

    def _loss(self, batch: Any) -> Tensor:
        loss: Tensor = self.objective(self._reading.for_mean()(self._network, batch))
        return loss

    @torch.no_grad()
    def _change(self, batch: Any, params: Sequence[Tensor], seed: int) -> Row:
        """The change of the weights, over ``delta``."""
        row, _ = self._engine.row(self._loss, [batch], params)
        sizes = root_mean_squares([p.detach() for p in params], params).tolist()
        lengths = root_mean_squares(row, params).tolist()
        names = {id(p): name for name, p in self._engine.module.named_parameters()}
        for i, (p, g) in enumerate(zip(params, row, strict=True)):
            if g is None:
                continue
            change = local(g).mul_(sizes[i] / lengths[i] if lengths[i] else 0.0)
            if self.noise:
                change.add_(local(sharded_like(_normal(p, hash_of(seed, i)), p)), alpha=self.noise * sizes[i])
            if self.fisher_weight and (fisher := self.fisher.get(names[id(p)])) is not None:
                change.div_(1 + self.fisher_weight * local(sharded_like(fisher.to(change.device), p)))
        return row

    def _example_gradients(self, batch: Any, params: Sequence[Tensor]) -> Iterator[tuple[Row, float]]:
        """The gradient of each supervised example, and the probability of its label."""
        for number in range(len(self._reading.keys(batch))):

            def nll(b: Any, number: int = number) -> Tensor:
                prediction = self._reading(self._network, b)
                rows = prediction.rows_per_example().clamp_min(1)
                return (prediction.example_nll() / rows)[number]

            row, losses = self._engine.row(nll, [batch], params)
            yield row, float((-losses[0]).exp())


@torch.no_grad()
def _add_squares_(total: Sequence[Tensor], row: Row, weight: float) -> None:
    for t, g in zip(total, row, strict=True):
        if g is not None:
            local(t).add_(local(g).to(local(t)).square(), alpha=weight)


def _params(trainer: pl.Trainer) -> list[Tensor]:
    return [p for group in trainer.optimizers[0].param_groups for p in group["params"] if p.requires_grad]


def _normal(param: Tensor, seed: int) -> Tensor:
    device = local(param).device
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(param.shape, generator=generator, device=device, dtype=torch.float32)
