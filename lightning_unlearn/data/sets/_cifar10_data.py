from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from lightning_unlearn.data._loader_settings import LoaderSettings
from lightning_unlearn.data.orders import Order
from lightning_unlearn.data.sets._class_data import ClassData, check_draw
from lightning_unlearn.data.vision import CIFARBatches, ImageArchive, Images
from lightning_unlearn.data.vision._cifar_batches import CIFAR10, CIFAR10_MEAN, CIFAR10_STD


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

    classes = CIFAR10
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
        train, test = _images(folder, "train"), _images(folder, "test")
        super().__init__(train, test, forget, per_class, class_seed, loader, order, seed)


def _images(folder: str, split: Literal["train", "test"]) -> Images:
    if (batches := CIFARBatches(folder, split)).files:
        return batches
    place = Path(folder)
    if not (place / split).is_dir() and not (place.suffix == ".zip" and place.is_file()):
        raise FileNotFoundError(
            f"`folder` should hold CIFAR-10: `data_batch_1.bin` and others, pictures in `{split}/airplane/` and others, or "
            f"be a `.zip` of these. Found none of them in `{folder}`. The first are published at {CIFAR10Data.address}."
        )
    return ImageArchive(folder, split, mean=CIFAR10_MEAN, std=CIFAR10_STD)
