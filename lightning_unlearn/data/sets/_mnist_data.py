from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lightning_unlearn.data._loader_settings import LoaderSettings
from lightning_unlearn.data.orders import Order
from lightning_unlearn.data.sets._class_data import ClassData, check_draw
from lightning_unlearn.data.sets._image_classes import ImageDataset
from lightning_unlearn.functional.settings import check_between

DIGITS = tuple("0123456789")
_MEAN, _DEVIATION = 0.1307, 0.3081


class MNISTData(ClassData):
    """MNIST: handwritten digits, some of which must go.

    Images are ``[B, 1, 28, 28]``, less the mean and over the deviation of the set. Where only the test images are there, as
    ``t10k``, the last ``held_out`` share of each digit is put aside as test images.

    Args:
        folder: With ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte`` and the same as ``t10k``, or with the latter
            alone; compressed (``.gz``) or not.
        forget: The digits that must go, as text: ``["3"]``.
        per_class: At most so many images of each digit, of both kinds.
        class_seed: Which ones.
        held_out: Share that is put aside if there are no training images.
        loader: How they are cut into batches.
        order: As in :class:`ForgetRetainData`, and so is ``seed``.
        seed: Of the order.

    Raises:
        FileNotFoundError: If there are no such files.
        ValueError: If a file is not of this form, or there is no such digit.

    Example:
        >>> data = MNISTData("mnist", forget=["3", "5"], per_class=100)  # doctest: +SKIP

    References:
        LeCun et al., *Gradient-Based Learning Applied to Document Recognition*, 1998.
    """

    called = "MNIST"
    address = "http://yann.lecun.com/exdb/mnist"
    licence = "CC BY-SA 3.0 as commonly stated."

    def __init__(
        self,
        folder: str,
        forget: Sequence[str] = ("0",),
        per_class: int | None = None,
        class_seed: int = 0,
        held_out: float = 0.2,
        loader: LoaderSettings = LoaderSettings(batch_size=128),  # noqa: B008  # frozen
        order: Order | None = None,
        seed: int = 0,
    ) -> None:
        check_between("held_out", held_out, 0, 1)
        check_draw(per_class, class_seed)
        test = _images(Path(folder), "t10k")
        train = _images(Path(folder), "train") if _path(Path(folder), "train-images-idx3-ubyte") else None
        if train is None:
            train, test = _cut(test, held_out)
        super().__init__(train, test, forget, per_class, class_seed, loader, order, seed)


def _images(folder: Path, part: str) -> ImageDataset:
    images, labels = _array(folder, f"{part}-images-idx3-ubyte"), _array(folder, f"{part}-labels-idx1-ubyte")
    return ImageDataset((images[:, None].float() / 255 - _MEAN) / _DEVIATION, labels.long(), DIGITS)


def _path(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / f"{name}.gz", folder / name) if path.is_file()), None)


def _array(folder: Path, name: str) -> Tensor:
    """An array in idx: two zeros, a type, the number of dimensions, these as big-endian integers, and the values."""
    if (path := _path(folder, name)) is None:
        raise FileNotFoundError(
            f"`folder` should hold `{name}` of MNIST, or `{name}.gz`. Found none in `{folder}`. They are published at "
            f"{MNISTData.address}."
        )
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    sizes = [int.from_bytes(data[start : start + 4], "big") for start in range(4, 4 + 4 * data[3], 4)]
    start = 4 + 4 * len(sizes)
    if data[:3] != b"\0\0\x08" or len(data) - start != torch.Size(sizes).numel():
        raise ValueError(f"`{path}` should be an idx file of bytes, of the sizes that it begins with. It is not.")
    return torch.frombuffer(bytearray(data[start:]), dtype=torch.uint8).reshape(sizes)


def _cut(images: ImageDataset, share: float) -> tuple[ImageDataset, ImageDataset]:
    """The first images of each digit, and the last ``share`` of them."""
    last = torch.zeros(len(images), dtype=torch.bool)
    for digit in range(len(DIGITS)):
        rows = (images.labels == digit).nonzero().squeeze(1)
        last[rows[len(rows) - round(share * len(rows)) :]] = True
    first, second = (ImageDataset(images.images[kept], images.labels[kept], DIGITS) for kept in (~last, last))
    return first, second
