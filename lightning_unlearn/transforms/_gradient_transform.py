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

    :class:`Unlearn` calls it when the gradient is complete and not yet merged: summed over micro-batches, averaged over
    processes, without the factor of a gradient scaler. Projectors, norms and cosine use the result. The retain gradient is
    never passed to it. A subclass implements :meth:`of`. Everything runs without a graph.

    Every process transforms the same gradient, or its shard of it, and must do the same to it. Draw random numbers from a
    generator with the same seed on all processes.

    Attributes:
        needs_whole: Whether :meth:`of` needs whole matrices. If so, sharded gradients (FSDP2, tensor parallelism) are
            gathered, one at a time, and the result is sharded again. Under FSDP1, which flattens matrices, ``Unlearn``
            refuses such a transform. If not, :meth:`of` gets the local shard.

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
        """Return the new gradient of one parameter.

        Args:
            gradient: Finite. It may be changed in place.
            param: The parameter itself. If it is sharded, it is a ``DTensor``: its shape is that of the whole, and
                ``runtime.local(param)`` is the local shard.

        Returns:
            A tensor of the shape, type and device of ``gradient``.
        """

    def changes(self, param: Tensor) -> bool:
        """Whether the gradient of ``param`` is changed at all. If not, :meth:`of` is not asked, and nothing is gathered."""
        return True

    def __call__(self, row: Row, params: Sequence[Tensor]) -> Row:
        """Transform a gradient.

        Args:
            row: A tensor per parameter. A parameter without a gradient (``None``) is skipped, and gets none.
            params: The parameters.

        Raises:
            ValueError: If :meth:`of` returns a tensor of another shape or type.
        """
        with torch.no_grad():
            pairs = zip(row, params, strict=True)
            return [self._placed(t, p) if t is not None and self.changes(p) else t for t, p in pairs]

    def attach(self, module: nn.Module) -> None:
        """Called before the first step, when ``module`` has the parameters that the optimizer trains (shards, if any)."""

    def state_dict(self) -> dict[str, Any]:
        """State for a resumed fit: tensors and primitives. If it holds shards, each process saves and loads its own."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a result of :meth:`state_dict`. Called after :meth:`attach`."""

    def _placed(self, gradient: Tensor, param: Tensor) -> Tensor:
        """Gather or take the local part, transform, and give the result the placement it came with."""
        # Gathering is a collective: every rank must transform the same parameters, in the same order.
        given = gathered(gradient) if self.needs_whole else local(gradient)
        shape, dtype = given.shape, given.dtype  # read before: `of` may change it in place
        changed = self.of(given, param)
        if changed.shape != shape or changed.dtype != dtype:
            # Only `None` may leave a parameter out, and only where it had no gradient: rows must match on every rank.
            raise ValueError(
                f"`{type(self).__name__}.of` should return a gradient of shape {tuple(shape)} and type {dtype}. Found "
                f"{tuple(changed.shape)} and {changed.dtype}. Set entries to zero instead of removing them; convert back."
            )
        return sharded_like(changed, gradient) if self.needs_whole else with_local(gradient, changed)
