from __future__ import annotations

import gzip
import math
import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.data.vision._images import Images, LabelledImages, centred
from lightning_unlearn.functional.settings import check_finite, check_positive, check_whole


class IDXImages(Images):
    """Images and labels in two IDX files, compressed or not, as of MNIST.

    Args:
        images: File of the images.
        labels: File of the labels.
        start: Number of the first image that is taken.
        stop: Number of the first that is not; ``None`` for all that follow.
        mean: Of the pixels, subtracted; of values in [0, 1]. Defaults to MNIST's.
        std: Of the pixels, divided by.

    Raises:
        ValueError: When they are read, if they are no IDX files, or do not belong together.
    """

    def __init__(
        self,
        images: str,
        labels: str,
        start: int = 0,
        stop: int | None = None,
        mean: float = 0.1307,
        std: float = 0.3081,
    ) -> None:
        check_whole("start", start, least=0)
        if stop is not None:
            check_whole("stop", stop, least=start + 1)
        check_finite("mean", mean)
        check_positive("std", std)
        self.images, self.labels, self.start, self.stop, self.mean, self.std = images, labels, start, stop, mean, std

    @override
    def load(self) -> LabelledImages:
        pixels, labels = _read(self.images), _read(self.labels)
        if pixels.dim() != 3 or labels.dim() != 1 or len(pixels) != len(labels):
            raise ValueError(
                f"`images` and `labels` should be [N, H, W] and [N]. Found {tuple(pixels.shape)} in `{self.images}` and "
                f"{tuple(labels.shape)} in `{self.labels}`."
            )
        part = slice(self.start, self.stop)
        images = centred(pixels[part, None], [self.mean], [self.std])
        names = [str(number) for number in range(int(labels.max()) + 1)]
        return LabelledImages(images, labels[part].long(), names)


def _read(path: str) -> Tensor:
    """Bytes, of any shape: two zeros, the kind 8, the number of sizes, the sizes, the values."""
    raw = Path(path).read_bytes()
    raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    if raw[:3] != b"\x00\x00\x08":
        raise ValueError(f"`{path}` should be an IDX file of bytes. Found one that begins with {raw[:4]!r}.")
    sizes = struct.unpack(f">{raw[3]}I", raw[4 : 4 + 4 * raw[3]])
    values = np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3])
    if len(values) != math.prod(sizes):
        raise ValueError(f"`{path}` should hold as many bytes as it begins with, {sizes}. Found {len(values)}.")
    return torch.from_numpy(values.reshape(sizes).copy())
