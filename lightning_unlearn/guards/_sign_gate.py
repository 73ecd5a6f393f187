from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.data import DataSource
from lightning_unlearn.engine import own_share, sum_by_scope, with_all_ranks
from lightning_unlearn.functional.gate import close_uphill_, nonzero_squares
from lightning_unlearn.functional.settings import check_not_negative
from lightning_unlearn.guards._protecting import Protecting
from lightning_unlearn.guards._refusals import refuse_projections
from lightning_unlearn.guards.directions import Direction, RetainGradient
from lightning_unlearn.guards.storages import Float32
from lightning_unlearn.objectives import Objective
from lightning_unlearn.readouts import Readout
from lightning_unlearn.runtime import local
from lightning_unlearn.transforms import Stage, Step


class SignGate(Protecting):
    r"""Take the optimizer's step only in those coordinates in which it does not raise the retain loss, to first order.

    With the step :math:`d` that the optimizer really took, momentum, weight decay and clipping included, and the gradient
    :math:`g_r` of what the fit trains on,

    .. math:: d_i \leftarrow 0 \quad \text{where} \quad d_i \, g_{r,i} > 0

    No coordinate moves uphill, so neither does the step as a whole. Masks of the same kind on the *gradient* do not survive
    Adam: a third of the coordinates then still moves uphill. Coordinates in which the retain gradient is zero are free, such
    as the embeddings of tokens that the retain batch does not have.

    **The learning rate.** About half of the coordinates stand still in each step. The gate needs a higher learning rate:
    look for it between twice and ten times that of the fit without it, at which little is forgotten.

    **With other parts.** :class:`StepGuard` beside it comes after the gate, and keeps its promise: with several directions,
    or with :class:`NoChange`, it may then move a coordinate uphill. If it protects this step's retain gradient alone, it
    finds nothing to correct. Restrictions that project, such as :class:`SubspaceGuard`, are refused; :class:`TrainOnly` is
    not one of them. On the factors of a LoRA adapter the promise is about these, and so about the loss to first order, but
    not about single weights of their product.

    **An optimizer for forgetting alone.** Beside ``Unlearn(optimizer=...)`` the gate changes that optimizer's step alone,
    with the retain gradient at the weights before both steps. The user's own step is not touched, and the forget step adds
    nothing to it that is uphill.

    **Limits.** As of :class:`StepGuard`: to first order, for the retain batches of this step. A coordinate that is set back
    has its old value to the bit, in every precision, so rounding breaks nothing. The optimizer's state stays that of the
    step it proposed.

    Logged each step:

    - ``gate/closed``: share of the coordinates that moved in which the step was taken back.
    - ``gate/kept``: length of the applied step, divided by that of the proposed one.
    - ``gate/retain_before``, ``gate/retain_after``: first-order change of the retain loss by the proposed and by the applied
      step; with ``average``, of the loss that the averaged gradient belongs to.

    Args:
        average: How much of the averaged gradient of the steps before goes into this step's, in [0, 1). Near a minimum the
            sign of a single batch's gradient is noise, and an average tells more. The promise is then about the average,
            which takes the memory of one more gradient, and is in the checkpoint.
        tau: Dead zone, at least 0: coordinates whose gradient is below ``tau`` times its root mean square (over all
            coordinates in which it is not zero) are free. The promise then holds for the others.
        retain: What must stay: a datamodule, a loader, a data set, or, from YAML, a mapping with ``class_path`` and
            ``init_args``. Costs one more pass per micro-batch. Defaults to what the fit trains on, which costs none.
        objective: The loss on ``retain``. Defaults to :class:`CrossEntropy`.
        readout: How to run the network on ``retain``. Defaults as in :class:`Unlearn`.
        seed: Seed of the order of ``retain``.

    Raises:
        NotImplementedError: In ``setup``, under manual optimization or DeepSpeed; when the fit starts, with sparse
            gradients, or beside a restriction that projects; when training starts, with LBFGS, or beside several
            :class:`Unlearn` if one has its own optimizer.
        ValueError: When the fit starts, if there is nothing to protect.
        RuntimeError: When training ends, if an optimizer step was not gated.

    Example:
        >>> gate = SignGate(average=0.9)  # Trainer(callbacks=[unlearn, gate])

    References:
        After the masks on the gradient of `SAGO <https://arxiv.org/abs/2604.14808>`_, 2026, and of `MUDMAN
        <https://arxiv.org/abs/2506.12484>`_, 2025, by their code. Masking the step that the optimizer took is ours.
    """

    stage: ClassVar[Stage] = Stage.GATE
    prefix: ClassVar[str] = "gate"

    def __init__(
        self,
        *,
        average: float = 0.0,
        tau: float = 0.0,
        retain: DataSource | None = None,
        objective: Objective | None = None,
        readout: Readout | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(RetainGradient(), Float32(), retain=retain, objective=objective, readout=readout, seed=seed)
        check_not_negative("average", average)
        if average >= 1:
            raise ValueError(f"`average` should be below 1: at 1 no new gradient counts. Found `average = {average}`.")
        check_not_negative("tau", tau)
        self.average = average
        self.tau = tau
        self._averaged: Direction = []  # empty before the first step
        self._gradient: Direction | None = None  # of the coming step

    @property
    def state_key(self) -> str:
        """Distinguishes several gates in one trainer by their settings."""
        return f"SignGate[average={self.average}, tau={self.tau}]"

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse what other callbacks rule out."""
        super().on_fit_start(trainer, pl_module)
        refuse_projections(trainer, "SignGate")

    @override
    def before(self, step: Step) -> None:
        # `None` if the source found gradients that are not finite: the step is then taken back.
        self._gradient = self._mixed(self._new[0]) if self._new else None
        self._new = []

    @override
    @torch.no_grad()
    def after(self, step: Step) -> None:
        gradient, self._gradient = self._gradient, None
        if gradient is None:
            for p in step.params:
                local(p).copy_(step.before(p))
            self._step_log = {"closed": 1.0, "kept": 0.0, "retain_before": float("nan"), "retain_after": 0.0}
            return
        threshold = self._threshold(gradient)
        held = step.snapshot.holds  # parameters that were added since the gradient was taken are free

        def gated(p: Tensor, g: Tensor) -> Tensor:
            return close_uphill_(local(p), step.before(p), g, threshold) if held(p) else g.new_zeros(6).double()

        closed, moved, was, now, before, after = self._summed(gradient, gated, 6).tolist()
        self._step_log = {
            "closed": closed / moved if moved else 0.0,
            "kept": (now / was) ** 0.5 if was else 1.0,
            "retain_before": before,
            "retain_after": after,
        }
        # Only now: a step that a gradient scaler skips does not count.
        self._averaged = gradient if self.average else []

    @override
    def saved(self) -> dict[str, Any]:
        """Counters, position in ``retain``, and the average. Gathers shards: every rank must call it."""
        return {**super().saved(), "averaged": with_all_ranks({"row": self._averaged}, self._engine)}

    @override
    def _covered(self, params: Sequence[Tensor]) -> None:
        if self._averaged:
            self._averaged = [*self._averaged, *[None] * (len(params) - len(self._averaged))]

    @override
    def _resume(self, state: dict[str, Any]) -> None:
        super()._resume(state)
        self._gradient = None
        row = own_share(state["averaged"], self._engine, "The average of `SignGate`").get("row", []) if state else []
        self._averaged = [g if g is None else g.to(p.device) for g, p in zip(row, self._params, strict=False)]
        if self._averaged:
            self._covered(self._params)

    def _mixed(self, new: Direction) -> Direction:
        """The average with this step's gradient in it. The old average is kept: the step may be skipped."""
        if not self._averaged:
            return new
        pairs = zip(self._averaged, new, strict=True)
        # A parameter without a gradient in this step has not changed what the loss is by it.
        return [g if a is None else a if g is None else a.lerp(g, 1 - self.average) for a, g in pairs]

    def _threshold(self, gradient: Direction) -> float:
        if not self.tau:
            return 0.0
        squares, count = self._summed(gradient, lambda p, g: nonzero_squares(g), 2).tolist()
        return self.tau * (squares / count) ** 0.5 if count else 0.0

    def _summed(self, gradient: Direction, of: Callable[[Tensor, Tensor], Tensor], size: int) -> Tensor:
        """Add up results ``[size]`` for parameters and their gradients, over the shards of all ranks."""
        nothing = torch.zeros(size, dtype=torch.float64, device=self._params[0].device)
        results = [nothing if g is None else of(p, g) for p, g in zip(self._params, gradient, strict=True)]
        # All parameters, those without a gradient, too: which ones have none may differ by rank, and collectives must match.
        scopes = [0] * len(results)
        return sum_by_scope(results, self._params, scopes, 1, self._engine.sharding_group)[0]
