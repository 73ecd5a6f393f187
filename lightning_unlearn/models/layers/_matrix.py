from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_unlearn.models.layers._layout import Layout
from lightning_unlearn.models.layers._storage import LowBit, Plain, Storage


@dataclass(frozen=True, eq=False)
class Matrix:
    """A weight matrix in a network: where it is, how to read it, and how to write it back.

    Args:
        layer: Name of the module that holds it, for ``network.get_submodule``.
        storage: What it is made of.
        layout: Which of its axes is which.
        adapters: The peft layers around its module that are for it, inner first.
        factor_of: The peft layer that it is a factor of, if it does not belong to the network itself.
    """

    layer: str
    storage: Storage
    layout: Layout
    adapters: tuple[Any, ...] = ()
    factor_of: Any = None

    @property
    def name(self) -> str:
        """Full name of the weight."""
        return f"{self.layer}.{self.storage.name}".removeprefix(".")

    @property
    def module(self) -> nn.Module:
        """The module that holds it."""
        return self.storage.module

    @property
    def parameters(self) -> list[Tensor]:
        """The trained parameters: the weight itself, or those that it is computed from."""
        return self.storage.parameters()

    @property
    def tensor(self) -> Any:
        """The weight that the layer computes with, in its own layout: the parameter, or what is computed from several.

        Weights in few bits are dequantised. Under FSDP2 it is a ``DTensor``. It need not be a tensor if :attr:`is_whole`
        is false.
        """
        return self.storage.read()

    @property
    def is_whole(self) -> bool:
        """Whether it still has all its axes: FSDP1 and DeepSpeed ZeRO-3 flatten weights, or take them away."""
        weight = self.tensor
        return isinstance(weight, Tensor) and weight.dim() == self.layout.axes

    @property
    def is_low_bit(self) -> bool:
        """Whether it is stored in few bits."""
        return isinstance(self.storage, LowBit)

    @property
    def is_computed(self) -> bool:
        """Whether it is computed from other parameters in each forward pass: pruned, weight norm, spectral norm."""
        return not isinstance(self.storage, Plain)

    @property
    def key(self) -> Any:
        """The same for two layers that share the weight."""
        # A weight that has been taken away is shared with no other.
        return id(self.parameters[-1]) if self.parameters else (id(self.module), self.storage.name)

    def view(self) -> Tensor:
        """The weight as ``[stacked..., out, in, ...]``; where it is a parameter, in its memory."""
        return self.layout.view(self.tensor)

    def rows(self) -> Tensor:
        """One row for each output, ``[outputs, inputs]``, with all its weights; stacked matrices follow one another."""
        return self.view().flatten(self.layout.stacked + 1).flatten(0, self.layout.stacked)

    def write_(self, rows: Tensor) -> None:
        """Set the weight: the inverse of :meth:`rows` and, for values of its shape, of :meth:`view`.

        Constraints still hold afterwards, so what is read may differ: pruned weights stay pruned, spectral norms stay 1.

        Raises:
            NotImplementedError: If it is stored in few bits, or is computed in a way that cannot be inverted.
        """
        with torch.no_grad():
            value = torch.empty_like(self.tensor)
            # A view of new memory in the order of `rows`: filling it puts the values into the weight's own order.
            ordered = self.layout.view(value)
            ordered.copy_(rows.reshape(ordered.shape))
            self.storage.write_(value)
