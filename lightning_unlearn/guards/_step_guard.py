from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, ClassVar, get_args

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.data import DataSource, ForgetStream
from lightning_unlearn.engine import (
    GradientEngine,
    ObservedGradient,
    callbacks_of,
    own_share,
    refuse_optimizers,
    remember_rng,
    was_skipped,
    with_all_ranks,
)
from lightning_unlearn.guards._guardable import Scope, last_to_step, refuse_unguardable, scopes_of
from lightning_unlearn.guards._guarded_step import GuardedStep, Outcome, PastProducts
from lightning_unlearn.guards._step_corrector import StepCorrector
from lightning_unlearn.guards._subspace_guard import SubspaceGuard
from lightning_unlearn.guards.directions import Direction, Directions, ExampleGradients, PerExample, RetainGradient
from lightning_unlearn.guards.geometries import Euclidean, Geometry
from lightning_unlearn.guards.rules import NoIncrease, Rule
from lightning_unlearn.guards.storages import Storage, stored
from lightning_unlearn.objectives import CrossEntropy, Objective
from lightning_unlearn.readouts import Readout, choose_readout
from lightning_unlearn.runtime import data_share, eval_mode, local, reshard

_ROUNDING = {torch.float32: 1e-3, torch.float64: 1e-3}
_LOW_PRECISION_ROUNDING = 1e-5


class StepGuard(StepCorrector):
    r"""Correct the step the optimizer really took, such that it does not harm what must stay, to first order.

    Momentum, weight decay, clipping and schedules are all in the step :math:`d` from the weights before to the weights
    after; it is replaced by the nearest one that the rule allows, given the gradients :math:`G` of the protected losses:

    .. math:: d' = \operatorname*{arg\,min}_{G^\top d' \le 0} \lVert d' - d \rVert_M

    and the weights are written anew. The optimizer's state stays that of the step it proposed. A step that is safe is left
    alone, to the bit. Beside :class:`Unlearn` it protects what the fit trains on, wherever it stands in the list of
    callbacks; with ``retain`` it protects that set, from forgetting or from ordinary fine-tuning.

    Beside an :class:`Unlearn` that has an optimizer of its own, the step :math:`d` is that optimizer's alone, from the
    weights after the user's step on, and ``geometry`` reads that optimizer; the user's step is not touched. Then
    :class:`NoChange` is of use: the fit learns what it will, and forgetting changes no protected loss. The protected
    gradients are those at the weights before the user's step, so one step old: what is promised of both steps
    together, to first order, is that the retain loss changes as the user's step alone would change it.

    What is promised holds to first order, for the losses at hand, and up to the rounding of the weights: float32 keeps the
    cosine of the applied step with a protected gradient near 1e-7, bf16 weights do not, and are warned about. A step that
    is not finite, or cannot be told to be safe, is undone. The fit is never stopped. Where steps are so large that the first
    order says little, a guarded fit can break where a plain one does not: with ``guard/retain_after`` at zero and a retain
    loss that rises, take smaller steps.

    Beside :class:`SubspaceGuard` both promises hold: this one moves along what the other leaves of each gradient.

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
        storage: How directions are kept: ``"fp32"``, ``"bf16"``, ``"int8"`` or ``"cpu"``; or ``"matrix_free"``, of
            :class:`PerExample` in one process: not at all, but written out again and again from inputs and output gradients
            of layers.
        retain: What must stay, if not what the fit trains on: a datamodule, a loader, a data set, or, from YAML, a mapping
            with ``class_path`` and ``init_args``. Costs one more pass per micro-batch, in evaluation mode, which touches
            neither buffers nor random generators.
        objective: The loss protected on ``retain``. Defaults to :class:`CrossEntropy`.
        readout: How to run the network on ``retain``, and for :class:`PerExample`. Defaults as in :class:`Unlearn`.
        seed: Of the order of ``retain``.

    Raises:
        NotImplementedError: In ``setup``, under manual optimization or DeepSpeed; with ``"matrix_free"`` in several
            processes; with that or ``"int8"`` beside a :class:`SubspaceGuard`; beside several :class:`Unlearn` of which one
            has an optimizer of its own, since the others' forgetting would not be guarded; when training starts, with
            LBFGS, or with an optimizer that ``geometry`` cannot read; in the first step, if a network is not one whose
            gradients can be kept ``"matrix_free"``.
        ValueError: In ``setup``, if there is nothing to protect.
        RuntimeError: When training ends, if an optimizer step was not guarded.

    Example:
        >>> from lightning_unlearn.guards import History
        >>> guard = StepGuard(NoIncrease(), History(length=4), scope="parameter")  # Trainer(callbacks=[unlearn, guard])

    References:
        The rule on the realised step is that of the repaired code of `Geometric-disentanglement Unlearning
        <https://arxiv.org/abs/2511.17100>`_, 2025.
    """

    prefix: ClassVar[str] = "guard"

    def __init__(
        self,
        rule: Rule | None = None,
        directions: Directions | None = None,
        geometry: Geometry | None = None,
        scope: Scope = "global",
        storage: Storage = "fp32",
        retain: DataSource | None = None,
        objective: Objective | None = None,
        readout: Readout | None = None,
        seed: int = 0,
    ) -> None:
        for name, value, choices in (
            ("scope", scope, ("global", "module", "parameter")),
            ("storage", storage, get_args(Storage)),
        ):
            if value not in choices:
                raise ValueError(f"`{name}` should be one of {choices}. Found `{name} = {value!r}`.")
        super().__init__(retain)
        self.rule = NoIncrease() if rule is None else rule
        self.directions = RetainGradient() if directions is None else directions
        self._per_example = self.directions if isinstance(self.directions, PerExample) else None
        if storage == "matrix_free" and self._per_example is None:
            raise ValueError(
                "`storage='matrix_free'` should go with gradients of single examples, which are made of what layers see. "
                f"Found `directions = {self.directions!r}`. Use `directions=PerExample()`, or another storage."
            )
        self.geometry = Euclidean() if geometry is None else geometry
        self.scope = scope
        self.storage = storage
        self.objective = CrossEntropy() if objective is None else objective
        self.readout = readout
        self.seed = seed
        self._steps["fallbacks"] = 0
        self._micro_batches = 0
        self._own_batches: list[Any] = []
        self._restored: dict[str, Any] = {}
        self._new: Sequence[Direction] | None = None
        self._step: GuardedStep | None = None
        self._past: PastProducts | None = None

    @property
    def state_key(self) -> str:
        """Tells several instances in one trainer apart by their parts."""
        return f"StepGuard[{self.rule!r}, {self.directions!r}, {self.geometry!r}, {self.scope}]"

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what cannot work."""
        if stage != "fit":
            return
        refuse_unguardable(trainer, pl_module, self.storage)
        self._find_retain(trainer)

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """See the optimizer, and take up where a checkpoint left off."""
        refuse_optimizers(trainer, "StepGuard")
        reshard(pl_module)  # a sanity check leaves gathered weights behind, which are not the optimizer's
        self._guarded = last_to_step(trainer)
        self._subspaces = callbacks_of(trainer, SubspaceGuard)
        self.geometry.refuse_unsupported(self._guarded)
        self._engine = GradientEngine(pl_module, trainer)
        self._params = [p for g in self._guarded.param_groups for p in g["params"]]
        self._scopes = scopes_of(pl_module, self._params, self.scope)
        self._observed = ObservedGradient(
            self._engine,
            self._params,
            keep=self._stored,
            per_micro_batch=self.directions.per_micro_batch,
        )
        self._new = self._step = self._past = None
        self._micro_batches, self._own_batches = 0, []
        if self.retain is not None or self._per_example is not None:
            self._used_readout = choose_readout(pl_module) if self.readout is None else self.readout
            self._network = self._used_readout.find_network(pl_module)
            self.objective.to(pl_module.device)
        if self._per_example is not None:
            self._examples = ExampleGradients(
                self._engine,
                pl_module,
                self._used_readout,
                self.objective,
                self._params,
                limit=self._per_example.limit,
                keep=None if self.storage == "matrix_free" else self._stored,
            )
        if self.retain is not None:
            rank, world_size = data_share(trainer)
            self._stream = ForgetStream(self._loader, seed=self.seed, rank=rank, world_size=world_size, name="retain")
        self._restore()

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Count the micro-batch. By now every callback has put its hooks on the optimizer: ours comes last."""
        self._micro_batches += 1
        if self._reads_own_batches:
            self._own_batches.append(batch)
        if self._handles:
            return
        theirs = trainer.optimizers[0]
        self._handles.append(theirs.register_step_post_hook(self._count))
        if self._guarded is not theirs:
            self._handles.append(self._guarded.register_step_pre_hook(self._before_step))
        self._handles.append(self._guarded.register_step_post_hook(self._after_step))

    @override
    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Copy the fit's own gradient before anybody adds to it."""
        if self.retain is None and self._per_example is None:
            self._observed.after_backward(is_last=not trainer.fit_loop._should_accumulate())

    @override
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Have the directions ready. Those of a step that was never taken (a gradient scaler's choice) are forgotten."""
        self._new = self._new_directions()
        self._micro_batches, self._own_batches = 0, []
        self._step = None
        if self._guarded is trainer.optimizers[0]:
            self._before_step()  # and not in its hook, which comes before its closure, when gradients are stale

    @override
    def state_dict(self) -> dict[str, Any]:
        """Counters, position in ``retain``, and past directions."""
        return {
            "steps": dict(self._steps),
            "position": self._stream.position if hasattr(self, "_stream") else 0,
            "directions": with_all_ranks(self.directions.state_dict(), self._engine)
            if hasattr(self, "_engine")
            else {},
            "products": None if self._past is None else self._past.state_dict(),
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until training starts: the stream does not exist yet."""
        self._restored = state_dict

    def retain_loss(self, batch: Any) -> Tensor:
        """The protected loss on one micro-batch of ``retain``."""
        loss: Tensor = self.objective(self._used_readout(self._network, batch))
        return loss

    @property
    def _reads_own_batches(self) -> bool:
        return self.retain is None and self._per_example is not None

    def _new_directions(self) -> Sequence[Direction]:
        if self._reads_own_batches:
            return self._examples.of(self._own_batches)
        if self.retain is None:
            return self._observed.take()
        batches = [self._engine.to_device(next(self._stream)) for _ in range(self._micro_batches)]
        return self._retain_gradients(batches) if self._per_example is None else self._examples.of(batches)

    def _retain_gradients(self, batches: Sequence[Any]) -> list[Direction]:
        apart = [[batch] for batch in batches] if self.directions.per_micro_batch else [batches]
        restore = remember_rng(self._engine.module)
        try:
            with eval_mode(self._engine.module):
                rows = [self._engine.row(self.retain_loss, b, self._params, divisor=len(batches))[0] for b in apart]
        except FloatingPointError:
            return []
        finally:
            restore()
        return [[None if t is None else self._stored(local(t)) for t in row] for row in rows]

    def _stored(self, gradient: Tensor, scale: float = 1.0) -> Tensor:
        return stored(gradient, self.storage, scale)

    def _count(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self._steps["taken"] += not was_skipped(optimizer)

    def _before_step(self, *args: Any) -> None:
        if self._new is None:
            return
        protected = self.directions.protected(self._new)
        for inputs in self._subspaces:  # which come last, and would take out anything else
            protected = [inputs.allowed(direction, self._params) for direction in protected]
        self._step = GuardedStep(self._engine, self._guarded, protected, len(self._new), self._scopes, self._past)

    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if self._new is None or self._step is None or was_skipped(optimizer):
            return
        outcome = self._step.correct_(self.rule, self.geometry)
        self._steps["guarded"] += 1
        self._steps["fallbacks"] += not outcome.is_optimal
        if outcome.retain_before == outcome.retain_before:
            self.directions.remember(self._new)
        self._past = self._step.products_among(self.directions.protected([]))
        self._new = self._step = None
        shown = asdict(outcome)
        shown.pop("is_optimal")
        self._step_log = {**shown, "fallbacks": float(self._steps["fallbacks"])}
        self._warn(outcome)

    def _warn(self, outcome: Outcome) -> None:
        expected = min(_ROUNDING.get(p.dtype, _LOW_PRECISION_ROUNDING) for p in self._params)
        if self._has_warned or not self.rule.corrects or outcome.cosine <= expected:
            return
        self._has_warned = True
        kinds = sorted({str(p.dtype) for p in self._params})
        rank_zero_warn(
            f"The corrected step should break no rule. Found a cosine of {outcome.cosine:.1e} with a protected gradient: "
            f"weights of {kinds} round it. Train float32 weights with `precision='bf16-mixed'`, or use LoRA."
        )

    def _restore(self) -> None:
        if not self._restored:
            self.directions.load_state_dict({})  # those of an earlier fit are of other weights
            return
        state, self._restored = self._restored, {}
        self._steps = dict(state["steps"])
        device = torch.device("cpu") if self.storage == "cpu" else self._params[0].device
        own = own_share(state["directions"], self._engine, f"The past gradients of `{self.directions!r}`")
        self.directions.load_state_dict(move_data_to_device(own, device))
        past = self.directions.protected([])
        if past and state["products"]:
            self._past = PastProducts(past, **move_data_to_device(state["products"], self._params[0].device))
        if self.retain is not None:
            self._stream.seek(state["position"])
