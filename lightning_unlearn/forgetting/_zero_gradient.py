from __future__ import annotations

from collections.abc import Mapping

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from lightning_unlearn.objectives import Bounded, Objective

_IN_A_ROW = 3
"""One step may have a batch without a supervised label."""


class ZeroGradient:
    """Says once that forget gradients are exactly zero, and why that may be.

    It goes by norms that are measured anyway, every ``log_every_n_steps``. Only after one of zero it wants the next steps
    measured, too.

    Args:
        objective: One that is bounded, and has reached its bound, has done what it should; so has one that pushed
            before, and whose loss is zero now, as a hinge's.
    """

    def __init__(self, objective: Objective) -> None:
        self._is_bounded = any(isinstance(part, Bounded) for part in objective.modules())
        self._name = type(objective).__name__
        self._has_pushed = False
        self._steps = 0
        self._has_spoken = False

    @property
    def is_suspected(self) -> bool:
        """Whether to measure the next step."""
        return self._steps > 0 and not self._has_spoken

    def saw(self, values: Mapping[str, Tensor]) -> None:
        """Look at a step.

        Args:
            values: ``forget``, the loss, and ``forget_norm``, if it was measured. They are the same on every rank.
        """
        if self._has_spoken or "forget_norm" not in values:
            return
        self._steps = self._steps + 1 if float(values["forget_norm"]) == 0 else 0
        self._has_pushed |= self._steps == 0
        if self._steps == _IN_A_ROW:
            self._has_spoken = True
            self._say(float(values["forget"]))

    def _say(self, loss: float) -> None:
        if loss == 0 and (self._is_bounded or self._has_pushed):
            own = f"`{self._name}` has nothing left to ask for"
            reached = "`Bounded` has reached its bound" if self._is_bounded else own
            rank_zero_info(
                f"{reached}: in {_IN_A_ROW} steps in a row the forget loss and its gradient were zero. That is what it is "
                "for. Nothing pushes any more, until training on the retain data brings something back."
            )
            return
        rank_zero_warn(
            f"The forget gradient should not be zero. Found no non-zero entry in {_IN_A_ROW} steps in a row (forget loss "
            f"{loss:.4g}): nothing is being forgotten. Likely causes: outputs that are detached from the weights that are "
            "trained (`detach`, `no_grad`, a frozen part); examples without a supervised label; a network with one logit, "
            "whose softmax is always 1 (use a readout that runs your own loss); a probability that has been rounded to 0 "
            "or 1."
        )
