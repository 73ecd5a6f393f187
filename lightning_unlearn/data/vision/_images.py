from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

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
