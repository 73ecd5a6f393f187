from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from typing_extensions import override

from lightning_unlearn.data.vision._images import Images, LabelledImages, centred

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
_ROW = 1 + 3 * 32 * 32


class CIFARBatches(Images):
    """The binary version of CIFAR-10. Each image is 3073 bytes: its class, and three channels of 32 x 32.

    Args:
        folder: With ``data_batch_1.bin`` to ``5`` and ``test_batch.bin``, also in a folder below it.
        split: ``"train"`` or ``"test"``.
        mean: Of each channel, subtracted; of values in [0, 1]. Defaults to CIFAR-10's.
        std: Of each channel, divided by.

    Raises:
        FileNotFoundError: When it is read, if there are no such files.
        ValueError: When it is read, if a file is of another size.
    """

    def __init__(
        self,
        folder: str,
        split: Literal["train", "test"] = "train",
        mean: tuple[float, float, float] = CIFAR10_MEAN,
        std: tuple[float, float, float] = CIFAR10_STD,
    ) -> None:
        if split not in ("train", "test"):
            raise ValueError(f'`split` should be "train" or "test". Found `split = {split!r}`.')
        self.folder, self.split, self.mean, self.std = folder, split, mean, std

    @property
    def files(self) -> list[Path]:
        """Those of the split, in order."""
        return sorted(Path(self.folder).rglob("data_batch_*.bin" if self.split == "train" else "test_batch.bin"))

    @override
    def load(self) -> LabelledImages:
        if not self.files:
            raise FileNotFoundError(
                f"`folder` should hold the binary version of CIFAR-10, such as `data_batch_1.bin`. Found none of its files "
                f"of `split = {self.split!r}` in `{self.folder}`."
            )
        values = np.concatenate([np.fromfile(file, np.uint8) for file in self.files])
        if len(values) % _ROW:
            raise ValueError(f"Files of CIFAR-10 should hold {_ROW} bytes an image. Found {len(values)} in all.")
        rows = torch.from_numpy(values).reshape(-1, _ROW)
        images = centred(rows[:, 1:].reshape(-1, 3, 32, 32), self.mean, self.std)
        return LabelledImages(images, rows[:, 0].long(), list(CIFAR10))
