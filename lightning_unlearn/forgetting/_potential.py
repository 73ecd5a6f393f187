from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from lightning_unlearn.engine import GradientEngine, Row

BatchLoss = Callable[[Any], Tensor]
Similarity = Literal["cos", "cos2"]

SIMILARITIES: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "cos": (lambda c: -c, lambda c: 0 * c - 1),
    "cos2": (lambda c: c * c, lambda c: 2 * c),
}
"""What is added to the forget loss, and its derivative, by the cosine ``c`` of the two gradients that are descended.

The forget loss that is descended is minus the one that the paper ascends, so its cosine has the other sign.
"""


@dataclass(frozen=True)
class Potential:
    r"""What the inner loop of a bilevel forgetting minimises: :math:`\ell_f + \beta \, s(\cos(\nabla\ell_f, \nabla L_r))`.

    Args:
        engine: Runs the passes.
        forget_loss: The forget loss of a micro-batch, as it is descended.
        retain_loss: The retain loss of a micro-batch.
        beta: Weight of the similarity of the two gradients; with 0, the retain loss is not needed.
        sim: Which similarity.
    """

    engine: GradientEngine
    forget_loss: BatchLoss
    retain_loss: BatchLoss
    beta: float
    sim: Similarity

    def added(self, cosine: Any) -> Any:
        """``beta`` times the similarity."""
        return self.beta * SIMILARITIES[self.sim][0](cosine)

    def slope(self, cosine: Any) -> Any:
        """Its derivative by the cosine."""
        return self.beta * SIMILARITIES[self.sim][1](cosine)


@dataclass(frozen=True)
class Point:
    """The data of a step, and the parameters.

    Args:
        forget: Forget micro-batches.
        retain: Retain micro-batches.
        params: The parameters.
        divisor: Number by which the sum over micro-batches is divided.
    """

    forget: Sequence[Any]
    retain: Sequence[Any]
    params: Sequence[Tensor]
    divisor: float

    def forget_row(self, potential: Potential) -> tuple[Row, Tensor]:
        """Gradient of the forget loss, and the losses."""
        return potential.engine.row(potential.forget_loss, self.forget, self.params, divisor=self.divisor)

    def retain_row(self, potential: Potential) -> Row:
        """Gradient of the retain loss."""
        return potential.engine.row(potential.retain_loss, self.retain, self.params)[0]
