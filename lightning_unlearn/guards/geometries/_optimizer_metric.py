from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.guards.geometries._base import Geometry
from lightning_unlearn.runtime import local


class OptimizerMetric(Geometry):
    r"""The metric in which Adam's step is steepest descent: weights that Adam moves far are corrected by more.

    .. math:: M = \operatorname{diag}\bigl(\sqrt{\hat v} + \epsilon\bigr) \, / \, \eta

    with the second moments :math:`\hat v`, the learning rate :math:`\eta` and :math:`\epsilon` of the step just taken. For
    Adam and AdamW of torch and of bitsandbytes. The quantised moments of bitsandbytes' 8-bit optimizers are dequantised. A
    parameter without moments is not corrected.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> optimizer = torch.optim.Adam([weight], lr=0.1, betas=(0.0, 0.0), eps=0.0)
        >>> weight.grad = torch.tensor([1.0, 4.0])
        >>> _ = optimizer.step()
        >>> OptimizerMetric().inverse_metric(optimizer, weight, optimizer.param_groups[0])
        tensor([0.1000, 0.0250])

    References:
        `Geometric-disentanglement Unlearning <https://arxiv.org/abs/2511.17100>`_, 2025, without the learning rate, which
        matters only if parameter groups differ in it.
    """

    @override
    def refuse_unsupported(self, optimizer: torch.optim.Optimizer) -> None:
        # By name: bitsandbytes is an optional dependency, and its classes do not inherit from torch's Adam.
        names = {cls.__name__ for cls in type(optimizer).__mro__}
        if names & {"Adam", "AdamW"} or getattr(optimizer, "optimizer_name", None) == "adam":
            return
        raise NotImplementedError(
            "`OptimizerMetric` should find an optimizer whose second moments it can read: `Adam` or `AdamW`, of torch or of "
            f"bitsandbytes. Found `{type(optimizer).__name__}`. Use `geometry=Euclidean()`."
        )

    @override
    def inverse_metric(
        self, optimizer: torch.optim.Optimizer, param: Tensor, settings: dict[str, Any]
    ) -> Tensor | None:
        state = optimizer.state.get(param, {})
        if not state:
            return torch.zeros((), device=local(param).device)
        # Adam's bias correction of the second moment; `step` is counted already, since the optimizer has stepped.
        correction = 1 - settings["betas"][1] ** float(state["step"])
        root = (second_moments(state).float() / correction).sqrt_().add_(settings["eps"])
        # A weight that never had a gradient has no direction either; with eps = 0 it would be 0 / 0.
        return torch.where(root > 0, float(settings["lr"]) / root, 0)


def second_moments(state: dict[str, Any]) -> Tensor:
    """Running mean of the squared gradient, as Adam of torch or of bitsandbytes keeps it."""
    for name in ("max_exp_avg_sq", "exp_avg_sq"):
        if name in state:  # with AMSGrad the maximum is what divides the step, so it is asked for first
            return local(state[name])
    moments: Tensor = state["state2"]
    if moments.dtype != torch.uint8:
        return moments
    from bitsandbytes.functional import dequantize_blockwise

    # Flat, as the optimizer quantises it, whatever the shape of the parameter.
    flat = dequantize_blockwise(moments.reshape(-1), absmax=state["absmax2"], code=state["qmap2"], blocksize=256)
    return flat.view_as(moments)  # type: ignore[no-any-return]
