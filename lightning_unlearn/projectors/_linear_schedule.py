from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.functional.settings import check_not_negative, check_whole
from lightning_unlearn.projectors._base import Projector


class LinearSchedule(Projector):
    r"""Add the gradients with weights that go from one value to another: circuit breakers' schedule.

    .. math:: g = w_f(s) \, g_f + w_r(s) \sum_i g_{r,i}, \quad w(s) = (1 - s) \, w_0 + s \, w_1, \quad
        s = \min(1, \mathrm{step} / \mathrm{steps})

    Steps are optimizer steps, counted from 0. With the defaults forgetting fades while retaining grows. EleutherAI's
    runs take ``forget=(23.0, 17.25)``.

    Args:
        steps: How many steps it takes; after them the weights stay.
        forget: Weight of the forget gradient at the start and at the end, not negative.
        retain: Weight of each retain gradient, the same.

    Example:
        >>> projector = LinearSchedule(steps=2)
        >>> [projector(torch.eye(2, dtype=torch.float64)).tolist() for _ in range(4)]
        [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0], [0.0, 1.0]]

    References:
        Zou et al., `Improving Alignment and Robustness with Circuit Breakers <https://arxiv.org/abs/2406.04313>`_,
        2024.
    """

    step: Tensor

    def __init__(
        self, steps: int, forget: tuple[float, float] = (1.0, 0.0), retain: tuple[float, float] = (0.0, 1.0)
    ) -> None:
        super().__init__()
        check_whole("steps", steps)
        for name, weights in (("forget", forget), ("retain", retain)):
            for weight in weights:
                check_not_negative(name, weight, why=": the sign is the objective's")
        self.steps = steps
        self.forget = forget
        self.retain = retain
        # A buffer, so that a resumed fit goes on from where it was.
        self.register_buffer("step", torch.tensor(0))

    @override
    def extra_repr(self) -> str:
        """The settings."""
        return f"steps={self.steps}, forget={self.forget}, retain={self.retain}"

    @override
    def forward(self, gramian: Tensor) -> Tensor:
        """The weights of this step, whatever the gradients are."""
        share = min(1.0, float(self.step) / self.steps)
        self.step += 1
        weights = gramian.new_full((len(gramian),), _between(self.retain, share))
        weights[0] = _between(self.forget, share)
        return weights


def _between(ends: tuple[float, float], share: float) -> float:
    return (1 - share) * ends[0] + share * ends[1]
