"""Where the gradient of a weight is added, while it is computed: into a sum that exists, without a tensor of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

# Not a context variable: on a GPU, backward runs in a thread of its own.
_open: list[Mapping[Tensor, Place]] = []  # tensors are equal as keys if they are the same


@dataclass(frozen=True)
class Place:
    """A sum of gradients that one more is added to.

    Args:
        total: The sum, of the weight's shape.
        factor: On what is added.
    """

    total: Tensor
    factor: float = 1.0

    def add_product_(self, left: Tensor, right: Tensor) -> None:
        """Add ``left @ right``."""
        if left.dtype == self.total.dtype:
            self.total.addmm_(left, right, alpha=self.factor)
        else:  # in mixed precision: products in its type, their sum in that of the weight
            self.total.add_(left @ right, alpha=self.factor)

    def add_rows_(self, index: Tensor, rows: Tensor) -> None:
        """Add ``rows [n, D]`` to those of ``index [n]``."""
        self.total.index_add_(0, index, rows, alpha=self.factor)


@contextmanager
def added_in_place(places: Mapping[Tensor, Place]) -> Iterator[None]:
    """Backward passes inside may add the gradients of these weights to their places, and tell autograd of none.

    Only functions that ask by :func:`place_of` do so: the output head and the embedding, whose weights are the largest. What
    else uses the weights gives its part to autograd, as ever.

    Example:
        >>> weight = torch.zeros(2, 2, requires_grad=True)
        >>> with torch.no_grad(), added_in_place({weight: Place(torch.ones(2, 2), factor=0.5)}):
        ...     place_of(weight).add_product_(torch.eye(2), torch.eye(2))
        ...     place_of(weight).total.tolist()
        [[1.5, 1.0], [1.0, 1.5]]
    """
    own = dict(places)
    _open.append(own)
    try:
        yield
    finally:  # callbacks leave in the order in which they came: its own places alone, which need not be the last
        _open[:] = [others for others in _open if others is not own]


def place_of(weight: Tensor) -> Place | None:
    """Where the gradient of ``weight`` is to be added; ``None`` where autograd gets it, as for second derivatives."""
    if torch.is_grad_enabled():
        return None
    return next((places[weight] for places in reversed(_open) if weight in places), None)


def takes_in_place(weight: Tensor, total: Tensor | None) -> bool:
    """Whether a gradient of ``weight`` may be added to ``total`` unseen: no hook of anybody's waits for it."""
    hooks = weight._backward_hooks, weight._post_accumulate_grad_hooks
    plain = type(total) is Tensor and total.layout == torch.strided and total.shape == weight.shape
    return plain and not any(hooks) and weight.dim() == 2
