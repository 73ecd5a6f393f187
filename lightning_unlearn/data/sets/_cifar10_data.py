from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lightning_unlearn.data._loader_settings import LoaderSettings
from lightning_unlearn.data.orders import Order
from lightning_unlearn.data.sets._class_data import ClassData, check_draw
from lightning_unlearn.data.sets._image_classes import ImageDataset

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_MEAN, _DEVIATION = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
_ROW = 1 + 3 * 32 * 32


class CIFAR10Data(ClassData):
    """CIFAR-10: small photographs of ten classes, some of which must go.

    Images are ``[B, 3, 32, 32]``, less the mean and over the deviation of each channel. Pickled files are not read, since
    they can run code; the binary version holds the same.

    Args:
        folder: With ``data_batch_1.bin`` to ``5`` and ``test_batch.bin`` (the binary version), or pictures in
            ``train/CLASS/`` and ``test/CLASS/``; or a ``.zip`` of such pictures.
        forget: Names of the classes that must go.
        per_class: At most so many images of each class, of both kinds.
        class_seed: Which ones.
        loader: How they are cut into batches.
        order: As in :class:`ForgetRetainData`, and so is ``seed``.
        seed: Of the order.

    Raises:
        FileNotFoundError: If there are no such files.
        ValueError: If there is no such class.

    Example:
        >>> data = CIFAR10Data("cifar10.zip", forget=["cat"], per_class=100)  # doctest: +SKIP

    References:
        Krizhevsky, *Learning Multiple Layers of Features from Tiny Images*, 2009.
    """

    called = "CIFAR-10"
    address = "https://www.cs.toronto.edu/~kriz/cifar.html"
    licence = "none is stated there; used for research."

    def __init__(
        self,
        folder: str,
        forget: Sequence[str] = ("airplane",),
        per_class: int | None = None,
        class_seed: int = 0,
        loader: LoaderSettings = LoaderSettings(batch_size=128),  # noqa: B008  # frozen
        order: Order | None = None,
        seed: int = 0,
    ) -> None:
        check_draw(per_class, class_seed)
        train, test = (_images(Path(folder), part) for part in ("train", "test"))
        super().__init__(train, test, forget, per_class, class_seed, loader, order, seed)


def _images(place: Path, part: str) -> ImageDataset:
    binary = sorted(place.rglob("data_batch_*.bin" if part == "train" else "test_batch.bin"))
    rows = list(_binary(binary)) if binary else list(_pictures(place, part))
    if not rows:
        raise FileNotFoundError(
            f"`folder` should hold CIFAR-10: `data_batch_1.bin` and others, pictures in `{part}/airplane/` and others, or "
            f"be a `.zip` of these. Found none of them in `{place}`. The first are published at {CIFAR10Data.address}."
        )
    images = torch.stack([image for image, _ in rows]).float() / 255
    shift, scale = (torch.tensor(of).reshape(1, 3, 1, 1) for of in (_MEAN, _DEVIATION))
    return ImageDataset((images - shift) / scale, torch.tensor([label for _, label in rows]), CIFAR10)


def _binary(files: Sequence[Path]) -> Iterator[tuple[Tensor, int]]:
    for file in files:
        rows = torch.from_numpy(np.fromfile(file, dtype=np.uint8)).reshape(-1, _ROW)
        yield from ((row[1:].reshape(3, 32, 32), int(row[0])) for row in rows)


def _pictures(place: Path, part: str) -> Iterator[tuple[Tensor, int]]:
    from PIL import Image  # which matplotlib brings

    for number, name in enumerate(CIFAR10):
        for content in _files(place, f"{part}/{name}/"):
            pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
            yield torch.from_numpy(pixels.copy()).permute(2, 0, 1), number


def _files(place: Path, below: str) -> Iterator[bytes]:
    if place.is_dir():
        yield from (file.read_bytes() for file in sorted((place / below).glob("*")))
    elif place.suffix == ".zip" and place.is_file():
        with zipfile.ZipFile(place) as archive:
            yield from (
                archive.read(name) for name in sorted(archive.namelist()) if name.startswith(below) and name != below
            )
