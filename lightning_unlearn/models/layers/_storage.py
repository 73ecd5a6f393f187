"""Where the numbers of a weight are kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.models.layers._low_bit import dequantized, is_low_bit


@dataclass(frozen=True, eq=False)
class Storage(ABC):
    """A weight called ``name`` of ``module``, whatever it is made of.

    Attributes:
        keeps_any_value: Whether any value that is written is read back unchanged, to rounding.
    """

    module: nn.Module
    name: str

    keeps_any_value: ClassVar[bool] = True

    @abstractmethod
    def parameters(self) -> list[Tensor]:
        """The trained parameters that make up the weight."""

    @abstractmethod
    def read(self) -> Any:
        """The weight that the layer uses in evaluation mode; not a tensor where a sharding strategy took it away."""

    @abstractmethod
    def write_(self, value: Tensor) -> None:
        """Set the parameters so that the weight becomes ``value``, as near as it can."""


class Plain(Storage):
    """The weight is a parameter."""

    @override
    def parameters(self) -> list[Tensor]:
        return [p for p in [self.module._parameters.get(self.name)] if p is not None]

    @override
    def read(self) -> Any:
        return getattr(self.module, self.name, None)

    @override
    def write_(self, value: Tensor) -> None:
        self.read().detach().copy_(value)


class LowBit(Plain):
    """The weight is a parameter, in few bits."""

    keeps_any_value: ClassVar[bool] = False

    @override
    def read(self) -> Tensor:
        return dequantized(getattr(self.module, self.name), self.module)

    @override
    def write_(self, value: Tensor) -> None:
        raise NotImplementedError(
            f"A weight that is written to should be stored in full. Found `{self.name}` of a `{type(self.module).__name__}` "
            "in few bits. Load the model without quantisation."
        )


def as_it_is(module: nn.Module, name: str) -> Storage:
    """The storage of a weight that is a parameter itself. The parameter may be missing, if a strategy took it away."""
    return LowBit(module, name) if is_low_bit(getattr(module, name, None)) else Plain(module, name)
