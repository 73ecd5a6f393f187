from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.data import DataSource
from lightning_unlearn.engine import callbacks_of, own_share, with_all_ranks
from lightning_unlearn.guards._guarded_step import GuardedStep, PastProducts
from lightning_unlearn.guards._layout import Layout, Scope, scopes_of
from lightning_unlearn.guards._protecting import Protecting
from lightning_unlearn.guards._refusals import (
    refuse_restrictions,
    refuse_settings,
    refuse_several_processes,
)
from lightning_unlearn.guards._rounding import is_rounded, warn_of_rounding
from lightning_unlearn.guards.directions import Directions, RetainGradient
from lightning_unlearn.guards.geometries import Euclidean, Geometry
from lightning_unlearn.guards.rules import NoIncrease, Rule
from lightning_unlearn.guards.storages import Float32, Storage
from lightning_unlearn.objectives import Objective
from lightning_unlearn.readouts import Readout
from lightning_unlearn.transforms import Stage, Step


class StepGuard(Protecting):
    r"""Correct the step that the optimizer really took, so that it does not harm what must stay, to first order.

    The step :math:`d` leads from the weights before to the weights after. Momentum, weight decay, clipping and schedules
    are all in it. It is replaced by the nearest step that the rule allows, given the gradients :math:`G` of the protected
    losses:

    .. math:: d' = \operatorname*{arg\,min}_{G^\top d' \le 0} \lVert d' - d \rVert_M

    Then the weights are written again. The optimizer's state stays that of the step it proposed. A safe step is left as it
    is, to the bit. Beside :class:`Unlearn` the guard protects the data that the fit trains on, wherever it stands in the
    list of callbacks. With ``retain`` it protects that set, from forgetting or from ordinary fine-tuning.

    **An optimizer for forgetting alone.** Beside ``Unlearn(optimizer=...)`` only that optimizer's step is guarded. It starts
    at the weights after the user's step, which is not touched, and ``geometry`` reads that optimizer. :class:`NoChange` is
    useful here: the fit learns freely, and forgetting changes no protected loss. The protected gradients are taken at the
    weights before the user's step. So both steps together change the retain loss as the user's step alone would, to first
    order.

    **Limits.** The promise holds to first order, for the batches of this step, and up to the rounding of the weights. With
    float32 weights the cosine of the applied step with a protected gradient stays near 1e-7. With bf16 weights it does not,
    and a warning says so. A step that is not finite, or that cannot be shown to be safe, is undone; the fit goes on. Large
    steps can break a guarded fit where a plain one does not break: if ``guard/retain_after`` is zero and the retain loss
    still rises, take smaller steps.

    **Restrictions.** Beside :class:`SubspaceGuard` or :class:`TrainOnly` both promises hold, because corrections are sought
    among the steps that the restriction allows. :class:`SignGate` comes before the guard, which has the last word. What
    comes after it, such as a transform of your own of ``Stage.PROXIMAL``, is not corrected.

    **Added parameters.** A parameter group added during the fit is guarded from the next step on. Past gradients count as
    zero there.

    **Threads.** While inner products are computed on the CPU, in several threads, torch uses one thread per operation *in
    the whole process*. The setting is restored afterwards.

    Logged each step:

    - ``guard/active``: number of active constraints.
    - ``guard/kept``: length of the applied step, divided by that of the proposed one.
    - ``guard/cosine``: the worst cosine of the *applied* step with a protected gradient, over all scopes; positive is
      uphill. The length is that of the longer of the two steps. Gradients of this step and of active constraints are
      measured again; for the others the value follows from known products.
    - ``guard/retain_before``, ``guard/retain_after``: first-order change of this step's retain loss by the proposed and by
      the applied step.
    - ``guard/fallbacks``: steps so far that were undone, or not corrected optimally.

    Checkpoints hold the counters, the position in ``retain`` and past gradients. Under FSDP each process saves its own
    shards of past gradients. They are restored only in the same number of processes; otherwise they are dropped, with a
    warning.

    Args:
        rule: :class:`NoIncrease`, :class:`NoChange` or :class:`Monitor`. Defaults to ``NoIncrease()``.
        directions: :class:`RetainGradient`, :class:`MicroBatches`, :class:`History` or :class:`PerExample`. Defaults to
            ``RetainGradient()``.
        geometry: :class:`Euclidean` or :class:`OptimizerMetric`. Defaults to ``Euclidean()``.
        scope: Where the rule holds: over all parameters together, over those of each module, or over each tensor.
        storage: How directions are kept: :class:`Float32`, :class:`BFloat16`, :class:`Int8` or :class:`MainMemory`; or
            :class:`MatrixFree`, for :class:`PerExample` in one process. In Python ``storage=Int8()``; in YAML
            ``storage: {class_path: lightning_unlearn.guards.Int8}``. Defaults to ``Float32()``.
        retain: What must stay: a datamodule, a loader, a data set, or, from YAML, a mapping with ``class_path`` and
            ``init_args``. Costs one more pass per micro-batch, in evaluation mode, which touches neither buffers nor random
            generators. Defaults to what the fit trains on.
        objective: The loss protected on ``retain``. Defaults to :class:`CrossEntropy`.
        readout: How to run the network on ``retain``, and for :class:`PerExample`. Defaults as in :class:`Unlearn`.
        seed: Seed of the order of ``retain``.

    Raises:
        NotImplementedError: In ``setup``, under manual optimization or DeepSpeed, or with :class:`MatrixFree` in several
            processes. When the fit starts, with sparse gradients, or with :class:`MatrixFree` or :class:`Int8` beside a
            restriction. When training starts, with LBFGS or a schedule-free optimizer, with one that ``geometry`` cannot
            read, or beside several :class:`Unlearn` if one has its own optimizer, since the forgetting of the others would
            not be guarded.
            In the first step, if :class:`MatrixFree` does not support the network.
        ValueError: In ``setup``, beside another ``StepGuard``. When the fit starts, if there is nothing to protect.
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
        super().__init__(
            RetainGradient() if directions is None else directions,
            Float32() if storage is None else storage,
            retain=retain,
            objective=objective,
            readout=readout,
            seed=seed,
        )
        self.rule = NoIncrease() if rule is None else rule
        self.geometry = Euclidean() if geometry is None else geometry
        self.scope = scope
        parts = {"rule": self.rule, "directions": self.directions, "geometry": self.geometry, "storage": self.storage}
        refuse_settings(self.scope, **parts)
        self._steps["fallbacks"] = 0
        self._has_warned = False
        self._step: GuardedStep | None = None
        self._past: PastProducts | None = None

    @property
    def state_key(self) -> str:
        """Names the settings: saved directions are of them."""
        return f"StepGuard[{self.rule!r}, {self.directions!r}, {self.geometry!r}, {self.scope}]"

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what cannot work."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        if (number := len(callbacks_of(trainer, StepGuard))) > 1:
            raise ValueError(
                f"There should be one `StepGuard`: a second correction would undo the first. Found {number}. Protect "
                "several losses in one, by its `directions`, or by one `retain` set of all."
            )
        refuse_several_processes(trainer, self.storage)

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse what other callbacks rule out."""
        super().on_fit_start(trainer, pl_module)
        refuse_restrictions(trainer, self.storage)

    @override
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Collect the directions of this step."""
        self._step = None  # a step that a gradient scaler skipped never reached `after`: drop its directions
        super().on_before_optimizer_step(trainer, pl_module, optimizer)

    @override
    def wanted(self, step: Step) -> list[list[Tensor]]:
        self._layout = Layout.of(step.optimizer, self._scopes, self.storage, self._engine)
        return self._layout.wanted()

    @override
    def before(self, step: Step) -> None:
        protected = self.directions.protected(self._new)
        if step.is_restricted:
            # Restrictions are applied after us. A correction outside the subspace they allow would be taken out again.
            protected = [step.allowed(direction) for direction in protected]
        new, past = len(self._new), self._past
        self._step = GuardedStep(self._engine, step, self._layout, protected, new, self.storage, past)

    @override
    def after(self, step: Step) -> None:
        assert self._step is not None
        guarded, self._step = self._step, None
        outcome = guarded.correct_(self.rule, self.geometry)
        self._steps["fallbacks"] += not outcome.is_optimal
        # NaN (unequal to itself) says that the products were not finite: such gradients would spoil every later step.
        if self._layout.moving and outcome.retain_before == outcome.retain_before:
            self.directions.remember(self._new)
        self._past = guarded.products_among(self.directions.protected([]))
        self._new = []  # frees one gradient's memory until the next step
        shown = asdict(outcome)
        shown.pop("is_optimal")
        self._step_log = {**shown, "fallbacks": float(self._steps["fallbacks"])}
        if self.rule.corrects and not self._has_warned and is_rounded(outcome.cosine, self._params):
            self._has_warned = True
            warn_of_rounding(outcome.cosine, self._params)

    @override
    def saved(self) -> dict[str, Any]:
        """Counters, position in ``retain``, and past directions. Gathers shards: every rank must call it."""
        return {
            **super().saved(),
            "directions": with_all_ranks(self.directions.state_dict(), self._engine),
            "products": None if self._past is None else self._past.state_dict(),
        }

    @override
    def _refuse_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        self.geometry.refuse_unsupported(optimizer)

    @override
    def _covered(self, params: Sequence[Tensor]) -> None:
        self._scopes = scopes_of(self._engine.module, params, self.scope)
        self._pad_past()
        self._past = None  # products over fewer parameters

    def _pad_past(self) -> None:
        """Let past gradients count as zero for parameters that were added later."""
        # In place: `PastProducts` recognises a direction by identity.
        for direction in self.directions.protected([]):
            direction.extend([None] * (len(self._params) - len(direction)))

    @override
    def _resume(self, state: dict[str, Any]) -> None:
        super()._resume(state)
        self._step = self._past = None
        self._scopes = scopes_of(self._engine.module, self._params, self.scope)
        if not state:
            # A second fit drops the gradients of the first one, whose weights were others.
            self.directions.load_state_dict({})
            return
        weights = self._params[0].device
        own = own_share(state["directions"], self._engine, f"The past gradients of `{self.directions!r}`")
        self.directions.load_state_dict(move_data_to_device(own, self.storage.device(weights)))
        past = self.directions.protected([])
        # The products are sums over all shards, equal on every rank; without the directions they are of no use.
        if past and state["products"]:
            self._past = PastProducts(past, **move_data_to_device(state["products"], weights))
        self._pad_past()
