from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.readouts import content_key


@dataclass(frozen=True, eq=False)
class Picture:
    """An image that a question is about, read when it is needed. Two are equal if their pixels are.

    Args:
        held: A file, its bytes, an image of pillow, ``[H, W]`` or ``[H, W, C]`` as an array, or ``[C, H, W]`` as a tensor.

    Example:
        >>> Picture(torch.zeros(1, 8, 8)) == Picture(torch.zeros(1, 8, 8)), Picture(np.zeros((8, 6, 3))).pixels.shape
        (True, torch.Size([3, 8, 6]))
    """

    held: Any

    def __repr__(self) -> str:
        """A file by its name, and all else by its shape."""
        shape = getattr(self.held, "shape", None)
        return f"Picture({self.held!r})" if shape is None else f"Picture({tuple(shape)})"

    @property
    def pixels(self) -> Tensor:
        """``[C, H, W]``: bytes of a file, and numbers as they were given of arrays and tensors."""
        if isinstance(self.held, Tensor):
            return self.held if self.held.dim() == 3 else self.held[None]
        array = np.asarray(self.held if isinstance(self.held, np.ndarray) else _decoded(self.held))
        channels = array[..., None] if array.ndim == 2 else array
        return torch.from_numpy(channels.copy()).permute(2, 0, 1)

    @cached_property
    def key(self) -> str:
        """A hash of its pixels."""
        return content_key(self.pixels)

    @override
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Picture) and (self is other or self.key == other.key)

    @override
    def __hash__(self) -> int:
        return hash(self.key)


def picture_of(value: Any, where: str, folder: Path) -> Picture:
    """The image in a field.

    Args:
        value: What :class:`Picture` takes, one itself, or ``{"bytes": ..., "path": ...}`` as of ``datasets``.
        where: Which field of which row, for messages.
        folder: What names of files are relative to.

    Raises:
        FileNotFoundError: If there is no such file.
        TypeError: If it is no image.
    """
    if isinstance(value, Picture):
        return value
    if isinstance(value, Mapping) and ("bytes" in value or "path" in value):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str | Path):
        value = folder / Path(value).expanduser()
        if not value.is_file():
            raise FileNotFoundError(f"{where} should be an image. Found no file `{value}`.")
    arrays = isinstance(value, Tensor | np.ndarray) and value.ndim in (2, 3)
    if not arrays and not isinstance(value, Path | bytes) and not hasattr(value, "convert"):
        raise TypeError(
            f"{where} should be an image: a file, its bytes, an image of pillow, or an array of two or three axes. Found a "
            f"`{type(value).__name__}`."
        )
    return Picture(value)


def _decoded(held: Any) -> Any:
    """An image of pillow, in grey or in three colours."""
    if isinstance(held, Path | bytes):
        from PIL import Image

        held = Image.open(held if isinstance(held, Path) else io.BytesIO(held))
    return held if held.mode in ("L", "RGB") else held.convert("RGB")
