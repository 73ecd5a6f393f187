from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_unlearn.engine import GradientEngine, Row, add_gradient_, adds_in_place, combine_
from lightning_unlearn.forgetting._transforms_in_order import TransformsInOrder
from lightning_unlearn.forgetting._vantage_points import VantagePoints
from lightning_unlearn.forgetting._zero_gradient import ZeroGradient
from lightning_unlearn.projectors import ObservingProjector, Projector
from lightning_unlearn.runtime import local

BatchLoss = Callable[[Any], Tensor]


class Merger:
    """Merge the forget gradient into the retain gradient, which is in ``p.grad``.

    Both gradients are divided by the same number, and averaged over ranks in the same way, so their ratio is that of the
    two losses.

    Args:
        engine: Runs the extra passes.
        projector: How the two are merged; ``None`` for their sum.
        weight: Factor on the forget gradient.
        vantage: Where the forget gradient is taken.
        transforms: Rewrite the forget gradient first.
        zero: Is shown what was measured, and may want more of it.
    """

    def __init__(
        self,
        engine: GradientEngine,
        projector: Projector | None,
        weight: float,
        vantage: VantagePoints,
        transforms: TransformsInOrder | None = None,
        zero: ZeroGradient | None = None,
    ) -> None:
        self._engine = engine
        self._projector = projector
        self._weight = weight
        self._vantage = vantage
        self._transforms = transforms
        self._zero = zero
        self._retain_losses: list[Tensor] = []

    def saw_retain(self, loss: Tensor, accumulate: int) -> None:
        """Keep the retain loss as the user computed it, for projectors that use it."""
        if isinstance(self._projector, ObservingProjector):
            # In `on_before_backward` the trainer has divided the loss by the number of micro-batches, and the gradient
            # scaler has multiplied it. Both are undone.
            scaler = self._engine.scaler()
            factor = accumulate / (1.0 if scaler is None else float(scaler.get_scale()))
            self._retain_losses.append(loss.detach().float() * factor)

    def pass_over(self) -> None:
        """Nothing is merged in this step."""
        self._retain_losses.clear()

    @property
    def only_adds(self) -> bool:
        """Whether nothing needs the two gradients apart in this step."""
        return self._projector is None and not self._transforms and not self._vantage.is_due

    def wants_measured(self, measured: bool) -> bool:
        """Whether to compute norms and cosine, which need the two gradients apart."""
        return measured or (self._zero is not None and self._zero.is_suspected)

    def merge_(
        self,
        loss: BatchLoss,
        batches: Sequence[Any],
        params: Sequence[Tensor],
        *,
        accumulate: int,
        measured: bool,
        joined: Sequence[Tensor] = (),
    ) -> dict[str, Tensor]:
        """Merge, in place. Collective: every rank must call it.

        Args:
            loss: The forget loss of a micro-batch.
            batches: As many forget micro-batches as there were retain micro-batches, without those that were joined.
            params: The parameters that the optimizer trains.
            accumulate: Number by which the trainer divides the loss of a micro-batch.
            measured: Whether to compute norms and cosine, where they cost extra.
            joined: Forget losses of micro-batches whose gradient is in ``p.grad`` already (:class:`OnePass`).

        Returns:
            ``forget``, the mean loss over micro-batches and ranks; and, if known, ``forget_norm``, ``retain_norm`` and
            ``cosine`` of the two gradients, the forget gradient as transformed.

        Raises:
            FloatingPointError: If the loss or a gradient is not finite, except where a gradient scaler skips the step.
        """
        if not batches and joined:
            mean, gramian = self._engine.average(torch.stack(list(joined))).mean(), None
            self._refuse_not_finite(mean, self._squared_norm(params))
        elif self.only_adds and adds_in_place(self._engine, len(batches)):
            # Nothing needs the forget gradient alone, so it is never held: the memory of one gradient instead of two.
            weight, measured = self._weight / accumulate, self.wants_measured(measured) and not joined
            mean, gramian = add_gradient_(self._engine, loss, batches[0], params, weight=weight, measured=measured)
            # Without a Gramian, the norm of the sum shows it if one of the two gradients is not finite.
            self._refuse_not_finite(mean, self._squared_norm(params) if gramian is None else gramian)
        else:
            mean, gramian = self._combine_(loss, batches, params, accumulate)
        if batches and joined:  # the rest of a step: `p.grad` was not the retain gradient alone
            among = self._engine.average(torch.stack(list(joined))).sum()
            mean, gramian = (among + mean * len(batches)) / (len(joined) + len(batches)), None
        return self._shown(mean, gramian)

    def _squared_norm(self, params: Sequence[Tensor]) -> Tensor:
        """Of ``p.grad``, ``[1, 1]``; of shards, the mean over ranks, which is finite if all of them are."""
        norm = torch.nn.utils.get_total_norm([local(p.grad) for p in params if p.grad is not None])
        return self._engine.average(norm.square()).reshape(1, 1)

    def forget_row(
        self, loss: BatchLoss, batches: Sequence[Any], params: Sequence[Tensor], *, accumulate: int
    ) -> tuple[Row, dict[str, Tensor]]:
        """The transformed forget gradient times its weight, and what :meth:`merge_` returns. ``p.grad`` is not changed."""
        forget, _, gramian, mean = self._rows(loss, batches, params, accumulate)
        if self._weight != 1:
            forget = [None if t is None else t.mul_(self._weight) for t in forget]
        return forget, self._shown(mean, gramian)

    def _shown(self, mean: Tensor, gramian: Tensor | None) -> dict[str, Tensor]:
        values = {"forget": mean, **({} if gramian is None else _geometry(gramian))}
        if self._zero is not None:
            self._zero.saw(values)
        return values

    def _combine_(
        self, loss: BatchLoss, batches: Sequence[Any], params: Sequence[Tensor], accumulate: int
    ) -> tuple[Tensor, Tensor]:
        forget, retain, gramian, mean = self._rows(loss, batches, params, accumulate)
        # Only the retain gradient can be infinite here, and only under a gradient scaler, which then skips this step.
        # Every rank sees the same Gramian, so all of them merge, or none does.
        if self._engine.scaler() is None or bool(gramian.isfinite().all()):
            self._show_losses(mean)
            combine_(params, [forget, retain], self._weights(gramian))
        self._retain_losses.clear()
        return mean, gramian

    def _rows(
        self, loss: BatchLoss, batches: Sequence[Any], params: Sequence[Tensor], accumulate: int
    ) -> tuple[Row, Row, Tensor, Tensor]:
        """Forget row, retain row, their Gramian, and the forget loss."""
        forget, losses = self._vantage.row(loss, batches, params, divisor=accumulate)
        if self._transforms:
            forget = self._transforms(forget, params)
        retain: Row = [p.grad for p in params]  # the tensors themselves: `combine_` adds to them in place
        gramian = self._engine.gramian([forget, retain], params)
        self._refuse_not_finite(losses.mean(), gramian)
        return forget, retain, gramian, losses.mean()

    def _weights(self, gramian: Tensor) -> list[float]:
        # Projectors see the weighted gradient, so that the weight counts in their geometry; it is then applied to the row.
        scale = torch.ones(len(gramian), dtype=gramian.dtype, device=gramian.device)
        scale[0] = self._weight
        weighted = scale[:, None] * gramian * scale
        weights = torch.ones_like(scale) if self._projector is None else self._projector(weighted)
        return (scale * weights).tolist()

    def _show_losses(self, forget: Tensor) -> None:
        if not isinstance(self._projector, ObservingProjector):
            return
        # `training_step` may return `None` on some rank: the mean is over the micro-batches that had a loss.
        losses = torch.stack([forget.new_zeros(()), *self._retain_losses]).sum()
        counted = torch.stack([losses, losses.new_tensor(len(self._retain_losses))])
        retain, known = self._engine.average(counted).unbind()
        if known:
            self._projector.observe(forget, retain / known)

    def _refuse_not_finite(self, forget: Tensor, gramian: Tensor) -> None:
        # Under a gradient scaler, infinite gradients are no error: it skips the step, and lowers its factor.
        finite = forget.isfinite()
        if self._engine.scaler() is None:
            finite = finite & gramian.diagonal().isfinite().all()
        if bool(finite):  # asked once: each question waits for the device
            return
        culprit = "forget loss" if not bool(forget.isfinite()) else "forget or retain gradient"
        norms = gramian.diagonal().tolist()
        step = 0 if self._engine.trainer is None else self._engine.trainer.global_step
        raise FloatingPointError(
            f"The {culprit} should be finite. Found NaN or infinity at step {step} (forget loss {float(forget):.4g}, "
            f"squared gradient norms {norms}). Lower the learning rate, clip gradients, or bound the objective: "
            "`Bounded(objective, bound=...)`; at the first step, look for NaN among the inputs. Checkpoints and logs up to "
            "this step are kept."
        )


def _geometry(gramian: Tensor) -> dict[str, Tensor]:
    forget, retain = gramian.diagonal().sqrt().unbind()
    # `tiny` only guards against 0 / 0: of a gradient of zeros the cosine is 0.
    cosine = gramian[0, 1] / (forget * retain).clamp_min(torch.finfo(gramian.dtype).tiny)
    return {name: v.float() for name, v in (("forget_norm", forget), ("retain_norm", retain), ("cosine", cosine))}
