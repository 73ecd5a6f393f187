from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LabelledImages:
    """Images in main memory.

    Args:
        images: ``[N, C, H, W]`` float32, each channel of mean 0 and deviation 1, roughly.
        labels: Class ids, ``[N]`` int64.
        classes: Their names, by id.
    """

    images: Tensor
    labels: Tensor
    classes: list[str]

    def where(self, mask: Tensor) -> LabelledImages:
        """Those for which ``mask [N]`` is true. Classes keep their numbers."""
        return LabelledImages(self.images[mask], self.labels[mask], self.classes)


class Images(ABC):
    """A source of images. A new one is a subclass with :meth:`load`; YAML builds it by its ``class_path``.

    Example:
        >>> import torch
        >>> class Grey(Images):
        ...     def load(self):
        ...         return LabelledImages(torch.zeros(3, 1, 8, 8), torch.tensor([0, 1, 1]), ["one", "two"])
        >>> Grey().load().images.shape
        torch.Size([3, 1, 8, 8])
    """

    @abstractmethod
    def load(self) -> LabelledImages:
        """Read all of them. The same each time."""


def centred(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Bytes ``[N, C, H, W]`` as values in [0, 1], less the mean and over the deviation of each channel.

    Example:
        >>> centred(torch.tensor([[[[0, 255]]]], dtype=torch.uint8), [0.5], [0.25])
        tensor([[[[-2.,  2.]]]])
    """
    shift, scale = (torch.tensor(values, dtype=torch.float32)[:, None, None] for values in (mean, std))
    return (pixels.float() / 255 - shift) / scale
