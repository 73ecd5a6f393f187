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
        weight: Name of its weight, as in ``network.named_parameters()``; empty if it is :attr:`computed`.
        bias: Name of its bias; ``None`` if it has none.
    """

    name: str
    layer: Any
    weight: str
    bias: str | None

    @property
    def computed(self) -> str:
        """``"weight"`` or ``"bias"``, where it is no parameter, but computed from others, as in weight norm; else empty."""
        own = self.layer._parameters
        if "weight" not in own:
            return "weight"
        return "bias" if "bias" not in own and getattr(self.layer, "bias", None) is not None else ""

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
        # Not by attribute: to compute a weight may change buffers, as those of spectral norm.
        weight, bias = (module._parameters.get(part, module._buffers.get(part)) for part in ("weight", "bias"))
        if not is_linear(module) or "lora_" in name or is_low_bit(weight):
            continue
        if patterns is not None and not name_fits(plain_name(name), patterns):
            continue
        found.append(Neurons(name, module, names.get(id(weight), ""), names.get(id(bias))))
    return found


def plain(who: Any, found: list[Neurons]) -> list[Neurons]:
    """The same; those whose weight or bias is computed from other parameters are refused, in the name of an edit."""
    for neurons in found:
        if neurons.computed:
            raise ValueError(
                f"`{type(who).__name__}` should change weights that are parameters. Found that the {neurons.computed} of "
                f"`{plain_name(neurons.name)}` is computed from others in each forward pass, as in weight norm or pruning. "
                "Make it a parameter first (`torch.nn.utils.parametrize.remove_parametrizations`, or "
                "`torch.nn.utils.prune.remove`), or name other layers."
            )
    return found


def all_linear(network: nn.Module) -> str:
    """Names of linear layers, for messages."""
    found = [plain_name(neurons.name) for neurons in neurons_of(network, None)]
    return ", ".join(f"`{name}`" for name in found[:6]) + (", ..." if len(found) > 6 else "")
