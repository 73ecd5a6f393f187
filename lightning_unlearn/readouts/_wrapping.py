from __future__ import annotations

from torch import nn
from typing_extensions import override

from lightning_unlearn.readouts._base import Readout
from lightning_unlearn.readouts._packed_causal_lm import PackedCausalLMReadout


class WrappingReadout(Readout):
    """Reads parts of a batch by another readout.

    Args:
        readout: How each part is read. Defaults to :class:`PackedCausalLMReadout`.
    """

    def __init__(self, readout: Readout | None = None) -> None:
        self.readout: Readout = PackedCausalLMReadout() if readout is None else readout

    @override
    def find_network(self, module: nn.Module) -> nn.Module:
        """The network that the inner readout finds."""
        return self.readout.find_network(module)

    @override
    def for_measuring(self) -> Readout:
        """The inner readout's: probes are plain batches."""
        return self.readout.for_measuring()
