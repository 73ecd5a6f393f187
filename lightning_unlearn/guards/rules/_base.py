from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from lightning_unlearn.functional.cone import Correction


class Rule(ABC):
    """What a step may do to protected losses, to first order.

    Attributes:
        corrects: Whether steps are changed at all. If not, a step that is not finite is not undone either.
    """

    corrects: ClassVar[bool] = True

    @abstractmethod
    def multipliers(self, gramian: Tensor, along: Tensor) -> Correction:
        r"""How much of each direction to take out of the step.

        Args:
            gramian: :math:`G^\top M^{-1} G`, ``[..., k, k]`` float64. Leading dimensions are separate problems.
            along: :math:`G^\top d`, ``[..., k]`` float64. Positive where the step raises the loss.

        Returns:
            The multipliers ``[..., k]``. All zero, exactly, leaves the weights untouched.
        """

    @abstractmethod
    def breach(self, cosines: Tensor) -> Tensor:
        """How much a step with these cosines ``[n]`` with the directions breaks the rule, ``[]``."""

    def __repr__(self) -> str:
        """The class: rules have no settings."""
        return f"{type(self).__name__}()"
