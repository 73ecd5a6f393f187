from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.utils.data import TensorDataset


class ImageDataset(TensorDataset):
    """Images with their labels, each with the name of its class as its entity.

    Args:
        images: ``[N, C, H, W]`` float32.
        labels: ``[N]`` int64.
        entities: One per image.
        classes: The names of the source's classes, by number.
    """

    def __init__(self, images: Tensor, labels: Tensor, entities: list[str], classes: Sequence[str] = ()) -> None:
        super().__init__(images, labels)
        self.entities = entities
        self.classes = tuple(classes)
