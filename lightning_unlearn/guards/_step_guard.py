from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, ClassVar, get_args

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.data import DataSource, ForgetStream, loader_of
from lightning_unlearn.engine import GradientEngine, own_share, with_all_ranks
from lightning_unlearn.guards._guarded_step import GuardedStep, PastProducts
from lightning_unlearn.guards._layout import Layout, Scope, added_since, scopes_of
from lightning_unlearn.guards._refusals import (
    refuse_nothing_to_protect,
    refuse_restrictions,
    refuse_several_processes,
)
from lightning_unlearn.guards._rounding import is_rounded, warn_of_rounding
from lightning_unlearn.guards.directions import Direction, Directions, PerExample, RetainGradient
from lightning_unlearn.guards.geometries import Euclidean, Geometry
from lightning_unlearn.guards.rules import NoIncrease, Rule
from lightning_unlearn.guards.sources import Examples, FitGradient, GradientSource, RetainSet
from lightning_unlearn.guards.storages import Float32, Storage
from lightning_unlearn.objectives import CrossEntropy, Objective
from lightning_unlearn.readouts import Readout, choose_readout
from lightning_unlearn.runtime import data_share
from lightning_unlearn.transforms import Stage, Step, StepChain, StepTransform


class StepGuard(StepTransform):
    r"""Correct the step the optimizer really took, such that it does not harm what must stay, to first order.

    Momentum, weight decay, clipping and schedules are all in the step :math:`d` from the weights before to the weights
    after; it is replaced by the nearest one that the rule allows, given the gradients :math:`G` of the protected losses:

    .. math:: d' = \operatorname*{arg\,min}_{G^\top d' \le 0} \lVert d' - d \rVert_M

    and the weights are written anew. The optimizer's state stays that of the step it proposed. A step that is safe is left
    alone, to the bit. Beside :class:`Unlearn` it protects what the fit trains on, wherever it stands in the list of
    callbacks; with ``retain`` it protects that set, from forgetting or from ordinary fine-tuning.

    Beside an :class:`Unlearn` that has an optimizer of its own, the step :math:`d` is that optimizer's alone: it starts at
    the weights after the user's step, which is not touched, and ``geometry`` reads that optimizer. Then
    :class:`NoChange` is of use: the fit learns what it will, and forgetting changes no protected loss. The protected
    gradients are those at the weights before the user's step, so one step old: what is promised of both steps
    together, to first order, is that the retain loss changes as the user's step alone would change it.

    What is promised holds to first order, for the losses at hand, and up to the rounding of the weights: float32 keeps the
    cosine of the applied step with a protected gradient near 1e-7, bf16 weights do not, and are warned about. A step that
    is not finite, or cannot be told to be safe, is undone. The fit is never stopped. Where steps are so large that the first
    order says little, a guarded fit can break where a plain one does not: with ``guard/retain_after`` at zero and a retain
    loss that rises, take smaller steps.

    Beside a restriction, such as :class:`SubspaceGuard` or :class:`TrainOnly`, both promises hold: directions are looked for
    among those that the restriction allows.

    Parameter groups that are added to the optimizer during the fit are guarded from the next step on; past gradients count
    as zero there.

    On the CPU, inner products of many tensors are taken in several threads at once. For as long as that takes, the number
    of threads that torch uses for an operation *in the whole process* is one; afterwards it is what it was. Code of yours
    that calls torch from a thread of its own meanwhile sees that.

    Logged each step: ``guard/active`` (constraints at work), ``guard/kept`` (length of the applied step over that of the
    proposed one), ``guard/cosine`` (the worst of the *applied* step with a protected gradient, over all scopes; positive
    is uphill; over the length of the proposed step where that is longer; measured against this step's gradients and those
    at work, and for the others computed from float64 products), ``guard/retain_before`` and
    ``guard/retain_after`` (change of this step's retain loss, to first order, by the proposed and by the applied step),
    ``guard/fallbacks`` (steps so far that were undone or not corrected optimally).

    Checkpoints hold the counters, the position in ``retain`` and past gradients; those of sharded parameters (FSDP) as each
    process holds them, so they are taken up in as many processes only, and left out, with a warning, elsewhere.

    Args:
        rule: :class:`NoIncrease`, :class:`NoChange` or :class:`Monitor`. Defaults to ``NoIncrease()``.
        directions: :class:`RetainGradient`, :class:`MicroBatches`, :class:`History` or :class:`PerExample`. Defaults to
            ``RetainGradient()``.
        geometry: :class:`Euclidean` or :class:`OptimizerMetric`. Defaults to ``Euclidean()``.
        scope: Over what the rule holds: all parameters together, or those of each module, or each tensor, by itself.
        storage: How directions are kept: :class:`Float32`, :class:`BFloat16`, :class:`Int8` or :class:`MainMemory`; or
            :class:`MatrixFree`, of :class:`PerExample` in one process. In Python ``storage=Int8()``; in YAML
            ``storage: {class_path: lightning_unlearn.guards.Int8}``. Defaults to ``Float32()``.
        retain: What must stay, if not what the fit trains on: a datamodule, a loader, a data set, or, from YAML, a mapping
            with ``class_path`` and ``init_args``. Costs one more pass per micro-batch, in evaluation mode, which touches
            neither buffers nor random generators.
        objective: The loss protected on ``retain``. Defaults to :class:`CrossEntropy`.
        readout: How to run the network on ``retain``, and for :class:`PerExample`. Defaults as in :class:`Unlearn`.
        seed: Of the order of ``retain``.

    Raises:
        NotImplementedError: In ``setup``, under manual optimization or DeepSpeed, or with :class:`MatrixFree` in several
            processes; when the fit starts, with that or :class:`Int8` beside a restriction, or beside several
            :class:`Unlearn` of which one has an optimizer of its own, since the others' forgetting would not be guarded;
            when training starts, with LBFGS, or with an optimizer that ``geometry`` cannot read; in the first step, if a
            network is not one whose gradients can be kept :class:`MatrixFree`.
        ValueError: When the fit starts, if there is nothing to protect.
        RuntimeError: When training ends, if an optimizer step was not guarded.

    Example:
        >>> from lightning_unlearn.guards import History
        >>> guard = StepGuard(NoIncrease(), History(length=4), scope="parameter")  # Trainer(callbacks=[unlearn, guard])

    References:
        The rule on the realised step is that of the repaired code of `Geometric-disentanglement Unlearning
        <https://arxiv.org/abs/2511.17100>`_, 2025.
    """

    stage: ClassVar[Stage] = Stage.RULE
    prefix: ClassVar[str] = "guard"

    def __init__(
        self,
        rule: Rule | None = None,
        directions: Directions | None = None,
        geometry: Geometry | None = None,
        scope: Scope = "global",
        storage: Storage | None = None,
        retain: DataSource | None = None,
        objective: Objective | None = None,
        readout: Readout | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if scope not in get_args(Scope):
            raise ValueError(f"`scope` should be one of {get_args(Scope)}. Found `scope = {scope!r}`.")
        self.rule = NoIncrease() if rule is None else rule
        self.directions = RetainGradient() if directions is None else directions
        self.geometry = Euclidean() if geometry is None else geometry
        self.scope = scope
        self.storage = Float32() if storage is None else storage
        if not isinstance(self.storage, Storage):
            raise TypeError(f"`storage` should be a `Storage`, such as `Int8()`. Found `storage = {storage!r}`.")
        if not self.storage.holds_gradients and not isinstance(self.directions, PerExample):
            raise ValueError(
                f"`storage={storage!r}` should go with gradients of single examples, which are made of what layers see. "
                f"Found `directions = {self.directions!r}`. Use `directions=PerExample()`, or another storage."
            )
        self.retain = retain
        self.objective = CrossEntropy() if objective is None else objective
        self.readout = readout
        self.seed = seed
        self._steps["fallbacks"] = 0
        self._has_warned = False
        self._new: Sequence[Direction] = []
        self._step: GuardedStep | None = None
        self._past: PastProducts | None = None

    @property
    def state_key(self) -> str:
        """Tells several instances in one trainer apart by their parts."""
        return f"StepGuard[{self.rule!r}, {self.directions!r}, {self.geometry!r}, {self.scope}]"

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what cannot work."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        refuse_several_processes(trainer, self.storage)
        self._loader = () if self.retain is None else loader_of(self.retain, "retain", trainer)

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """By now it is known who forgets, and who restricts."""
        super().on_fit_start(trainer, pl_module)
        refuse_nothing_to_protect(trainer, self.retain, "StepGuard")
        refuse_restrictions(trainer, self.storage)

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """See the optimizer, and take up where a checkpoint left off."""
        super().on_train_start(trainer, pl_module)
        self._guarded = StepChain.of(trainer).guarded(trainer.optimizers[0])
        self.geometry.refuse_unsupported(self._guarded)
        self._engine = GradientEngine(pl_module, trainer)
        self._params = [p for g in self._guarded.param_groups for p in g["params"]]
        self._scopes = scopes_of(pl_module, self._params, self.scope)
        self._step = self._past = None
        self._source = self._chosen_source(trainer, pl_module)
        self._restore()

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """See the micro-batch."""
        self._source.saw_batch(batch)

    @override
    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Copy the fit's own gradient before anybody adds to it."""
        self._cover_added()
        self._source.after_backward(is_last=not trainer.fit_loop._should_accumulate())

    @override
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Have the directions ready. Those of a step that was never taken (a gradient scaler's choice) are forgotten."""
        self._cover_added()
        self._step = None
        self._new = self._source.take()
        super().on_before_optimizer_step(trainer, pl_module, optimizer)

    @override
    def wanted(self, step: Step) -> list[list[Tensor]]:
        self._layout = Layout.of(step.optimizer, self._scopes, self.storage, self._engine)
        return self._layout.wanted()

    @override
    def before(self, step: Step) -> None:
        protected = self.directions.protected(self._new)
        if step.is_restricted:  # which is applied after us, and would take out anything else
            protected = [step.allowed(direction) for direction in protected]
        new, past = len(self._new), self._past
        self._step = GuardedStep(self._engine, step, self._layout, protected, new, self.storage, past)

    @override
    def after(self, step: Step) -> None:
        assert self._step is not None
        guarded, self._step = self._step, None
        outcome = guarded.correct_(self.rule, self.geometry)
        self._steps["fallbacks"] += not outcome.is_optimal
        if outcome.retain_before == outcome.retain_before:  # not NaN: gradients that are not finite are not remembered
            self.directions.remember(self._new)
        self._past = guarded.products_among(self.directions.protected([]))
        self._new = []
        shown = asdict(outcome)
        shown.pop("is_optimal")
        self._step_log = {**shown, "fallbacks": float(self._steps["fallbacks"])}
        if self.rule.corrects and not self._has_warned and is_rounded(outcome.cosine, self._params):
            self._has_warned = True
            warn_of_rounding(outcome.cosine, self._params)

    @override
    def state_dict(self) -> dict[str, Any]:
        """Counters, position in ``retain``, and past directions."""
        started = hasattr(self, "_source")
        return {
            **super().state_dict(),
            "position": self._source.position if started else 0,
            "directions": with_all_ranks(self.directions.state_dict(), self._engine) if started else {},
            "products": None if self._past is None else self._past.state_dict(),
        }

    def retain_loss(self, batch: Any) -> Tensor:
        """The protected loss on one micro-batch of ``retain``."""
        loss: Tensor = self.objective(self._used_readout(self._network, batch))
        return loss

    def _chosen_source(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> GradientSource:
        per_micro_batch = self.directions.per_micro_batch
        if self.retain is None and not isinstance(self.directions, PerExample):
            return FitGradient(self._engine, self._params, self.storage, per_micro_batch=per_micro_batch)
        self._used_readout = choose_readout(pl_module) if self.readout is None else self.readout
        self._network = self._used_readout.find_network(pl_module)
        self.objective.to(pl_module.device)
        stream = None
        if self.retain is not None:
            rank, world_size = data_share(trainer)
            stream = ForgetStream(self._loader, seed=self.seed, rank=rank, world_size=world_size, name="retain")
        if isinstance(self.directions, PerExample):
            parts = (self._engine, self._used_readout, self.objective, self.storage, self.directions.limit)
            return Examples(*parts, self._params, stream)
        assert stream is not None
        loss, storage = self.retain_loss, self.storage
        return RetainSet(self._engine, stream, loss, self._params, storage, per_micro_batch=per_micro_batch)

    def _cover_added(self) -> None:
        """Guard parameter groups that were added to the optimizer, as ``BaseFinetuning`` does when it unfreezes layers."""
        if (params := added_since(self._guarded, self._params, "StepGuard")) is None:
            return
        self._params = params
        self._scopes = scopes_of(self._engine.module, params, self.scope)
        self._source.cover(params)
        self._pad_past()
        self._past = None

    def _pad_past(self) -> None:
        """Past gradients know nothing of parameters that came later: they count as zero there."""
        for direction in self.directions.protected([]):
            direction.extend([None] * (len(self._params) - len(direction)))

    def _restore(self) -> None:
        state = self._take_restored()
        if not state:
            self.directions.load_state_dict({})  # those of an earlier fit are of other weights
            return
        weights = self._params[0].device
        own = own_share(state["directions"], self._engine, f"The past gradients of `{self.directions!r}`")
        self.directions.load_state_dict(move_data_to_device(own, self.storage.device(weights)))
        past = self.directions.protected([])
        if past and state["products"]:
            self._past = PastProducts(past, **move_data_to_device(state["products"], weights))
        self._pad_past()
        self._source.seek(state["position"])
