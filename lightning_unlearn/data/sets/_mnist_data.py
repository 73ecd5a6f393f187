from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightning_unlearn.data._loader_settings import LoaderSettings
from lightning_unlearn.data.orders import Order
from lightning_unlearn.data.sets._class_data import ClassData, check_draw
from lightning_unlearn.data.vision import AllBut, IDXImages, Images, LastOfEach, Picked
from lightning_unlearn.functional.settings import check_between


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
        ValueError: If there is no such digit; when they are read, if a file is not of this form.

    Example:
        >>> data = MNISTData("mnist", forget=["3", "5"], per_class=100)  # doctest: +SKIP

    References:
        LeCun et al., *Gradient-Based Learning Applied to Document Recognition*, 1998.
    """

    classes = tuple("0123456789")
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
        test: Images = _images(Path(folder), "t10k")
        if _found(Path(folder), "train-images-idx3-ubyte"):
            train: Images = _images(Path(folder), "train")
        else:
            last = LastOfEach(held_out)
            train, test = Picked(test, AllBut(last)), Picked(test, last)
        super().__init__(train, test, forget, per_class, class_seed, loader, order, seed)


def _images(folder: Path, part: str) -> IDXImages:
    images, labels = (str(_needed(folder, f"{part}-{what}-ubyte")) for what in ("images-idx3", "labels-idx1"))
    return IDXImages(images, labels)


def _found(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / f"{name}.gz", folder / name) if path.is_file()), None)


def _needed(folder: Path, name: str) -> Path:
    if (path := _found(folder, name)) is None:
        raise FileNotFoundError(
            f"`folder` should hold `{name}` of MNIST, or `{name}.gz`. Found none in `{folder}`. They are published at "
            f"{MNISTData.address}."
        )
    return path
