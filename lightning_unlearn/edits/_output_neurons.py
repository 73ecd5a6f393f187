"""The output neurons of linear layers: which layers, and their rows in weight and bias."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lightning_unlearn.engine import gathered
from lightning_unlearn.models.layers import is_linear, is_low_bit, is_transposed, name_fits, plain_name, sizes


@dataclass(frozen=True, eq=False)
class Neurons:
    """The outputs of a linear layer.

    Args:
        name: Of the layer.
        layer: The layer.
        weight: Name of its weight, as in ``network.named_parameters()``.
        bias: Name of its bias; ``None`` if it has none.
    """

    name: str
    layer: Any
    weight: str
    bias: str | None

    @property
    def number(self) -> int:
        """How many there are."""
        return sizes(self.layer)[1]

    def rows(self) -> Tensor:
        """A copy of the whole weight, ``[out, in]``. Collective where it is sharded."""
        whole = gathered(self.layer.weight.detach())
        return (whole.T if is_transposed(self.layer) else whole).clone()

    def shifts(self) -> Tensor | None:
        """A copy of the whole bias, ``[out]``."""
        return None if self.bias is None else gathered(self.layer.bias.detach()).clone()

    def values(self, rows: Tensor, shifts: Tensor | None) -> Iterator[tuple[str, Tensor]]:
        """New values of weight and bias, as an edit yields them."""
        yield self.weight, (rows.T if is_transposed(self.layer) else rows).contiguous()
        if self.bias is not None and shifts is not None:
            yield self.bias, shifts


def neurons_of(network: nn.Module, patterns: Sequence[str] | None) -> list[Neurons]:
    """The linear layers of some names, in order; all of them without patterns. Layers of adapters are no layers here."""
    names = {id(p): name for name, p in network.named_parameters()}
    found = []
    for name, module in network.named_modules():
        layer: Any = module
        if not is_linear(module) or "lora_" in name or is_low_bit(layer.weight):
            continue
        if patterns is not None and not name_fits(plain_name(name), patterns):
            continue
        bias = getattr(layer, "bias", None)
        found.append(Neurons(name, layer, names[id(layer.weight)], None if bias is None else names[id(bias)]))
    return found


def all_linear(network: nn.Module) -> str:
    """Names of linear layers, for messages."""
    found = [plain_name(neurons.name) for neurons in neurons_of(network, None)]
    return ", ".join(f"`{name}`" for name in found[:6]) + (", ..." if len(found) > 6 else "")
