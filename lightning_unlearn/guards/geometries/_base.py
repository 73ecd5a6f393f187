from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor


class Geometry(ABC):
    """The metric in which a corrected step is nearest to the step that was taken. It is diagonal.

    Attributes:
        is_constant: Whether it is the same in every step. Then products among past gradients can be kept.
    """

    is_constant: ClassVar[bool] = False

    def refuse_unsupported(self, optimizer: torch.optim.Optimizer) -> None:
        """Refuse, by name, an optimizer that does not have the state which the metric is computed from."""

    @abstractmethod
    def inverse_metric(
        self, optimizer: torch.optim.Optimizer, param: Tensor, settings: dict[str, object]
    ) -> Tensor | None:
        r"""Diagonal of :math:`M^{-1}`.

        Args:
            optimizer: Just after its step.
            param: One of its parameters.
            settings: The parameter group of ``param``.

        Returns:
            A tensor of the shape of the local shard of ``param``, or ``[]``; ``None`` for the identity. Where it is zero,
            the parameter is not corrected.
        """

    def __repr__(self) -> str:
        """The class: geometries have no settings."""
        return f"{type(self).__name__}()"
