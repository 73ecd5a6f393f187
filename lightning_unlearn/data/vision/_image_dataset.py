from __future__ import annotations

from torch import Tensor
from torch.utils.data import TensorDataset


class ImageDataset(TensorDataset):
    """Images with their labels, each with the name of its class as its entity.

    Args:
        images: ``[N, C, H, W]`` float32.
        labels: ``[N]`` int64.
        entities: One per image.
    """

    def __init__(self, images: Tensor, labels: Tensor, entities: list[str]) -> None:
        super().__init__(images, labels)
        self.entities = entities
