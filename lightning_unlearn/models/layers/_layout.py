from __future__ import annotations

from dataclasses import dataclass
from math import prod

from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """How to read a weight as ``[out, in, ...]``, or as several such matrices stacked along further axes.

    Args:
        kind: ``"linear"``, ``"convolution"``, ``"recurrent"``, ``"attention"``, ``"bilinear"``, ``"experts"``,
            ``"embedding"`` (one row per entry), or ``"other"``: a bare parameter of a module that is not known.
        order: The axes of the weight in the order ``[stacked..., out, in, ...]``.
        stacked: How many axes come before the outputs: 1 for experts, and for transposed convolutions in groups.
        groups: Into how many parts the first axis is split before its axes are ordered.
        is_certain: Whether it is known which axis is which; if not, outputs are taken to come first.
    """

    kind: str
    order: tuple[int, ...]
    stacked: int = 0
    groups: int = 1
    is_certain: bool = True

    @property
    def axes(self) -> int:
        """How many a weight has that nothing has flattened."""
        return len(self.order) - (self.groups > 1)

    def view(self, weight: Tensor) -> Tensor:
        """``weight``, or a part of it with the same axes, ``[stacked..., out, in, ...]``, in the same memory."""
        split = weight.unflatten(0, (self.groups, -1)) if self.groups > 1 else weight
        return split.permute(self.order)

    def undone(self, ordered: Tensor) -> Tensor:
        """The inverse of :meth:`view`: a tensor ``[stacked..., out, in, ...]`` with the axes of the weight."""
        weight = ordered.permute([self.order.index(axis) for axis in range(len(self.order))])
        return weight.flatten(0, 1) if self.groups > 1 else weight

    @property
    def output_axis(self) -> int:
        """Which axis of the weight itself the outputs are on."""
        axis = self.order[self.stacked]
        # `order` counts axes after the first one was split into two.
        return axis - 1 if self.groups > 1 and axis else axis

    @property
    def row_axes(self) -> tuple[int, ...]:
        """Axes of the weight itself along which it can be cut without cutting the weights of one output."""
        # The first axis of a transposed convolution in groups counts groups and inputs at once.
        return (self.output_axis,) if self.groups > 1 else self.order[: self.stacked + 1]

    def inputs(self, weight: Tensor) -> int:
        """How many weights one output has."""
        return weight.numel() // max(self.groups * prod(weight.shape[axis] for axis in self.row_axes), 1)
