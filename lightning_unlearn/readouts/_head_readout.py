from __future__ import annotations

from typing import Any

from torch import nn
from typing_extensions import override

from lightning_unlearn.readouts._classification import ClassificationReadout


class HeadReadout(ClassificationReadout):
    """Run the last layer of a classifier alone, on what it would read: batches ``(features, labels)``.

    For :class:`~lightning_unlearn.data.vision.MixedPrototypes`: ``UnlearningModule(retain_readout=HeadReadout("linear"))``.

    Args:
        head: Name of the layer.

    Raises:
        ValueError: If the network has no such layer.

    Example:
        >>> import torch
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> HeadReadout("1")(network, (torch.zeros(3, 4), torch.tensor([0, 1, 0]))).logits.shape
        torch.Size([3, 2])
    """

    def __init__(self, head: str) -> None:
        super().__init__()
        self.head = head

    @override
    def _run(self, network: nn.Module, batch: Any, place: int | str) -> Any:
        try:
            head = network.get_submodule(self.head)
        except AttributeError:
            layers = [name for name, _ in network.named_children()]
            raise ValueError(f"`head` should name a layer of the network. Found `{self.head}`, and {layers}.") from None
        return head(batch[0])
