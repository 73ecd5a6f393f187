from __future__ import annotations

import io
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from lightning_unlearn.data.vision._images import Images, LabelledImages
from lightning_unlearn.functional.settings import check_whole


class ImageArchive(Images):
    """A zip file of images, in folders ``split/class/name``, as of torchvision's ``ImageFolder``.

    Class ids follow the alphabet. Reading needs pillow, which matplotlib brings.

    Args:
        path: The zip file.
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
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        images = (pixels.float() / 255 - mean) / std
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

    with zipfile.ZipFile(path) as archive:
        names = sorted(n for n in archive.namelist() if n.startswith(f"{split}/") and not n.endswith("/"))
        by_class: dict[str, list[str]] = {}
        for name in names:
            by_class.setdefault(name.split("/")[1], []).append(name)
        chosen = [(number, name) for number, some in enumerate(by_class.values()) for name in some[:most]]
        if not chosen:
            raise ValueError(f"`split` should be a folder of `{path}`. Found no image under `{split}/`.")
        pixels = [np.array(Image.open(io.BytesIO(archive.read(name))).convert("RGB")) for _, name in chosen]
    if len({image.shape for image in pixels}) > 1:
        raise ValueError(f"Images should have one size. Found several in `{path}`. Resize them first.")
    labels = torch.tensor([number for number, _ in chosen])
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous(), labels, tuple(by_class)
