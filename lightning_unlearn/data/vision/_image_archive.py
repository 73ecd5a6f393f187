from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from lightning_unlearn.data.vision._images import Images, LabelledImages, centred
from lightning_unlearn.functional.settings import check_whole


class ImageArchive(Images):
    """Images in folders ``split/class/name``, as of torchvision's ``ImageFolder``, or a zip file of these.

    Class ids follow the alphabet of all classes, also of those that only another split with classes of this one has: splits
    number them alike. Reading needs pillow, which matplotlib brings.

    Args:
        path: The folder, or the zip file.
        split: Its first folder.
        size: Height and width, to which images are averaged down; a divisor of theirs. Defaults to their own.
        most: Take this many of each class, the first by name; all, if ``None``.
        mean: Of each channel, subtracted; of values in [0, 1]. Defaults to ImageNet's.
        std: Of each channel, divided by.

    Raises:
        ValueError: When it is read, if the split has no images, or images of several sizes.
    """

    def __init__(
        self,
        path: str,
        split: str = "train",
        size: int | None = None,
        most: int | None = None,
        mean: tuple[float, float, float] = (0.485, 0.456, 0.406),
        std: tuple[float, float, float] = (0.229, 0.224, 0.225),
    ) -> None:
        for name, value in {"size": size, "most": most}.items():
            if value is not None:
                check_whole(name, value)
        self.path, self.split, self.size, self.most, self.mean, self.std = path, split, size, most, mean, std

    @override
    def load(self) -> LabelledImages:
        pixels, labels, classes = _read(Path(self.path), self.split, self.most)
        images = centred(pixels, self.mean, self.std)
        if self.size is not None:
            images = averaged_down(images, self.size)
        return LabelledImages(images, labels, list(classes))


def averaged_down(images: Tensor, size: int) -> Tensor:
    """Means over blocks of pixels.

    Example:
        >>> averaged_down(torch.tensor([[[[0.0, 2.0], [4.0, 6.0]]]]), 1)
        tensor([[[[3.]]]])
    """
    height, width = images.shape[-2:]
    if height % size or width % size:
        raise ValueError(f"`size` should divide height and width, {height} and {width}. Found `size = {size}`.")
    return F.avg_pool2d(images, (height // size, width // size))


@cache
def _read(path: Path, split: str, most: int | None) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Pixels ``[N, 3, H, W]`` uint8; decoding takes a second for a few thousand, and several sources read one file."""
    from PIL import Image

    with _opened(path) as root:
        by_class = _by_class(root / split)
        classes = _classes(root, set(by_class))
        chosen = [(classes.index(kind), file) for kind, some in by_class.items() for file in some[:most]]
        if not chosen:
            raise ValueError(f"`split` should be a folder of `{path}`. Found no image under `{split}/`.")
        pixels = [np.array(Image.open(io.BytesIO(file.read_bytes())).convert("RGB")) for _, file in chosen]
    if len({image.shape for image in pixels}) > 1:
        raise ValueError(f"Images should have one size. Found several in `{path}`. Resize them first.")
    labels = torch.tensor([number for number, _ in chosen])
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous(), labels, classes


@contextmanager
def _opened(path: Path) -> Iterator[Path | zipfile.Path]:
    if path.suffix != ".zip":
        yield path
        return
    with zipfile.ZipFile(path) as archive:
        yield zipfile.Path(archive)


def _classes(root: Path | zipfile.Path, own: set[str]) -> tuple[str, ...]:
    """The names of a split's classes, and of those of other splits that share one with it."""
    splits: list[Any] = [folder for folder in root.iterdir() if folder.is_dir()]
    found = [
        {kind.name for kind in split.iterdir() if kind.is_dir() and any(file.is_file() for file in kind.iterdir())}
        for split in splits
    ]
    return tuple(sorted(own.union(*(others for others in found if own & others))))


def _by_class(folder: Path | zipfile.Path) -> dict[str, list[Any]]:
    """The files of each class that has some, by name."""
    inside: list[Any] = list(folder.iterdir()) if folder.is_dir() else []
    kinds = sorted(inside, key=lambda kind: kind.name)
    files = {kind.name: [file for file in kind.iterdir() if file.is_file()] for kind in kinds if kind.is_dir()}
    return {kind: sorted(some, key=lambda file: file.name) for kind, some in files.items() if some}
