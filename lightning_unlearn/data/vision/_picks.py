from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.data._hashing import shuffled
from lightning_unlearn.data.vision._images import LabelledImages
from lightning_unlearn.functional.settings import check_between, check_kind, check_positive, check_whole


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
    """All images of some classes, or at most so many of each.

    Args:
        classes: Names, or numbers.
        most: At most so many of each class, drawn at random; all, if ``None``. A smaller draw is a part of a larger one.
        seed: Of the draw.

    Example:
        >>> images = LabelledImages(torch.zeros(3, 1, 1, 1), torch.tensor([0, 2, 1]), ["cat", "dog", "frog"])
        >>> OfClasses(["dog", "frog"]).mask(images)
        tensor([False,  True,  True])
    """

    def __init__(self, classes: list[str] | list[int], most: int | None = None, seed: int = 0) -> None:
        if not classes:
            raise ValueError("`classes` should name at least one class. Found none.")
        if most is not None:
            check_whole("most", most, why=", or `None` for all")
        self.classes, self.most, self.seed = classes, most, seed

    @override
    def mask(self, images: LabelledImages) -> Tensor:
        taken = torch.zeros(len(images.labels), dtype=torch.bool)
        for number in (class_number(images, one) for one in self.classes):
            rows = (images.labels == number).nonzero()[:, 0]
            taken[rows[shuffled(len(rows), self.seed, number)[: self.most]]] = True
        return taken


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


class LastOfEach(Pick):
    """The last images of each class: what is put aside where nobody has published test images.

    Args:
        share: How many of each class.

    Example:
        >>> images = LabelledImages(torch.zeros(5, 1, 1, 1), torch.tensor([0, 0, 1, 1, 0]), ["cat", "dog"])
        >>> LastOfEach(0.4).mask(images)
        tensor([False, False, False,  True,  True])
    """

    def __init__(self, share: float) -> None:
        check_between("share", share, 0, 1)
        self.share = share

    @override
    def mask(self, images: LabelledImages) -> Tensor:
        last = torch.zeros(len(images.labels), dtype=torch.bool)
        for number in images.labels.unique():
            rows = (images.labels == number).nonzero()[:, 0]
            last[rows[len(rows) - round(self.share * len(rows)) :]] = True
        return last


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
