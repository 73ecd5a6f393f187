from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.data.vision._images import LabelledImages
from lightning_unlearn.functional.settings import check_between, check_kind, check_positive


class Pick(ABC):
    """Which of some images are meant: those that must go, or all but them. The same each time, on every rank.

    Example:
        >>> class FirstTen(Pick):
        ...     def mask(self, images):
        ...         return torch.arange(len(images.labels)) < 10
    """

    @abstractmethod
    def mask(self, images: LabelledImages) -> Tensor:
        """One boolean per image, ``[N]``."""


class OfClasses(Pick):
    """All images of some classes.

    Args:
        classes: Names, or numbers.

    Example:
        >>> images = LabelledImages(torch.zeros(3, 1, 1, 1), torch.tensor([0, 2, 1]), ["cat", "dog", "frog"])
        >>> OfClasses(["dog", "frog"]).mask(images)
        tensor([False,  True,  True])
    """

    def __init__(self, classes: list[str] | list[int]) -> None:
        if not classes:
            raise ValueError("`classes` should name at least one class. Found none.")
        self.classes = classes

    @override
    def mask(self, images: LabelledImages) -> Tensor:
        return torch.isin(images.labels, torch.tensor([class_number(images, one) for one in self.classes]))


class RandomPart(Pick):
    """Some of the images, drawn at random, of whatever class.

    Args:
        share: How many of all, larger than 0.
        seed: Of the draw.

    Example:
        >>> images = LabelledImages(torch.zeros(8, 1, 1, 1), torch.zeros(8, dtype=torch.int64), ["cat"])
        >>> RandomPart(0.25).mask(images).sum()
        tensor(2)
    """

    def __init__(self, share: float, seed: int = 0) -> None:
        check_positive("share", share)
        check_between("share", share, 0, 1)
        self.share, self.seed = share, seed

    @override
    def mask(self, images: LabelledImages) -> Tensor:
        count = len(images.labels)
        drawn = torch.randperm(count, generator=torch.Generator().manual_seed(self.seed))
        return torch.zeros(count, dtype=torch.bool).index_fill(0, drawn[: max(1, round(self.share * count))], True)


class AllBut(Pick):
    """The images that another pick leaves.

    Args:
        pick: The other one.
    """

    def __init__(self, pick: Pick) -> None:
        check_kind("pick", pick, Pick, example="RandomPart(0.1)")
        self.pick = pick

    @override
    def mask(self, images: LabelledImages) -> Tensor:
        return ~self.pick.mask(images)


def class_number(images: LabelledImages, named: str | int) -> int:
    """The number of a class, given by its name or its number."""
    if named in images.classes:
        return images.classes.index(str(named))
    if isinstance(named, int) and 0 <= named < len(images.classes):
        return named
    raise ValueError(f"`classes` should be among {images.classes}, or their numbers. Found {named!r}.")
