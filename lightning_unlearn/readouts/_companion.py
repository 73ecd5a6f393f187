from __future__ import annotations

from typing import Any

from torch import nn
from typing_extensions import override

from lightning_unlearn.prediction import Likelihood
from lightning_unlearn.readouts._paired import companion_keys, has_companion, parts_of
from lightning_unlearn.readouts._wrapping import WrappingReadout


class CompanionReadout(WrappingReadout):
    """Run a network on the companions only, from the batches that :class:`PairedReadout` takes.

    With :class:`CrossEntropy` as the objective, and :class:`Refusals` as the companions, this is fine-tuning on refusals.

    Args:
        readout: How they are read. Defaults to :class:`PackedCausalLMReadout`.

    Raises:
        ValueError: If a batch holds no companions.

    Example:
        >>> import torch
        >>> from lightning_unlearn.readouts import ClassificationReadout
        >>> forget, companion = ({"x": torch.zeros(2, 3), "y": torch.tensor([y, y])} for y in (0, 1))
        >>> readout = CompanionReadout(ClassificationReadout("x", "y"))
        >>> readout(nn.Linear(3, 2), {**forget, "companion": companion}).labels.tolist()
        [1, 1]
    """

    @override
    def __call__(self, network: nn.Module, batch: Any) -> Likelihood:
        return self.readout(network, parts_of(batch, type(self).__name__)[1])

    @override
    def keys(self, batch: Any) -> list[str]:
        """Keys of the companions; of a plain batch, the inner readout's."""
        if not has_companion(batch):
            return self.readout.keys(batch)
        return companion_keys(self.readout, parts_of(batch, type(self).__name__)[1])
