from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_unlearn.engine import Row, gathered, sharded_like, with_local
from lightning_unlearn.runtime import local


class GradientTransform(ABC):
    """Rewrites the forget gradient, tensor by tensor, once per optimizer step.

    :class:`Unlearn` calls it when the gradient is complete (summed over micro-batches, averaged over processes, without
    the factor of a gradient scaler) and not yet merged: projectors, norms and cosine go by what it returns. The retain
    gradient is never shown to it. A subclass writes :meth:`of`; all of it runs without a graph.

    Every process transforms the same gradient, or its part of it, and has to do the same: draw random numbers from a
    generator that is seeded alike on all of them.

    Attributes:
        needs_whole: Whether :meth:`of` has to see whole matrices. If so, sharded gradients (FSDP2, tensor parallelism) are
            gathered, one at a time, and what comes back is sharded again; under FSDP1, which flattens matrices, ``Unlearn``
            refuses it. If not, :meth:`of` is given the part that the process holds.

    Example:
        >>> class Sign(GradientTransform):
        ...     def of(self, gradient, param):
        ...         return gradient.sign()
        >>> weight = torch.nn.Parameter(torch.zeros(3))
        >>> Sign()([torch.tensor([-2.0, 0.0, 5.0]), None], [weight, weight])
        [tensor([-1.,  0.,  1.]), None]
    """

    needs_whole: ClassVar[bool] = False

    @abstractmethod
    def of(self, gradient: Tensor, param: Tensor) -> Tensor:
        """What takes the place of one parameter's gradient.

        Args:
            gradient: Finite; it may be changed in place.
            param: The parameter itself. Where it is sharded it is a ``DTensor``: its shape is that of the whole, and
                ``runtime.local(param)`` the part this process holds.

        Returns:
            A tensor of the shape, type and device of ``gradient``.
        """

    def __call__(self, row: Row, params: Sequence[Tensor]) -> Row:
        """Transform a gradient.

        Args:
            row: A tensor per parameter; a parameter without a gradient (``None``) is passed over, and keeps none.
            params: The parameters.

        Raises:
            ValueError: If :meth:`of` returns a tensor of another shape or type.
        """
        with torch.no_grad():
            return [None if t is None else self._placed(t, p) for t, p in zip(row, params, strict=True)]

    def attach(self, module: nn.Module) -> None:
        """See the module before the first step, with the parameters (sharded, if they are) that the optimizer trains."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed fit must know: tensors and primitives. Of shards, each process gives, and is given, its own."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave; called after :meth:`attach`."""

    def _placed(self, gradient: Tensor, param: Tensor) -> Tensor:
        """Gather or take the local part, transform, and give the result the placement it came with."""
        shown = gathered(gradient) if self.needs_whole else local(gradient)
        shape, dtype = shown.shape, shown.dtype
        changed = self.of(shown, param)
        if changed.shape != shape or changed.dtype != dtype:
            raise ValueError(
                f"`{type(self).__name__}.of` should return a gradient of shape {tuple(shape)} and type {dtype}. Found "
                f"{tuple(changed.shape)} and {changed.dtype}. Zero what should go, and convert back."
            )
        return sharded_like(changed, gradient) if self.needs_whole else with_local(gradient, changed)
