from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor


class Geometry(ABC):
    """In which metric a corrected step is near the step that was taken: a diagonal, read off the optimizer.

    Attributes:
        is_constant: Whether it is the same in every step, so that products among past gradients are, too.
    """

    is_constant: ClassVar[bool] = False

    def refuse_unsupported(self, optimizer: torch.optim.Optimizer) -> None:
        """Refuse, by name, an optimizer that does not have what the metric is made of."""

    @abstractmethod
    def inverse_metric(
        self, optimizer: torch.optim.Optimizer, param: Tensor, settings: dict[str, object]
    ) -> Tensor | None:
        r"""Diagonal of :math:`M^{-1}`.

        Args:
            optimizer: Just after its step.
            param: One of its parameters.
            settings: The parameter group it is in.

        Returns:
            Of the shape of what this process holds of ``param``, or ``[]``; ``None`` for the identity. Where it is zero,
            the parameter is not touched.
        """

    def __repr__(self) -> str:
        """The class: geometries have no settings."""
        return f"{type(self).__name__}()"
