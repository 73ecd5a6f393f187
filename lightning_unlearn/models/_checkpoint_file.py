"""Why a fit cannot be resumed from a file, in words."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from traceback import walk_tb
from typing import Any

import torch

_RESTORING = ("resume_start", "restore_model", "restore_training_state")
_BELONGS = ("state_dict", "pytorch-lightning_version")


def explain_checkpoint(checkpoint: Any, error: BaseException | None = None) -> None:
    """Explain a checkpoint that is damaged or of another kind, for which torch has riddles such as ``Invalid argument``.

    Args:
        checkpoint: Path of what was to be resumed from; ``None`` for nothing.
        error: What ended the fit. One that did not come from reading a checkpoint is left alone.

    Raises:
        ValueError: If ``checkpoint`` is a file that no fit can be resumed from.

    Example:
        >>> explain_checkpoint(None)
    """
    path = Path(str(checkpoint))
    if checkpoint is None or not path.is_file() or (error is not None and not _came_from_reading(error)):
        return
    what = _damage(path) or _other_kind(path)
    if what is not None:
        raise ValueError(f"The checkpoint should be a whole file. Found {what}") from error


def _came_from_reading(error: BaseException) -> bool:
    frames = [frame.f_code for frame, _ in walk_tb(error.__traceback__)]
    return any("checkpoint_connector" in code.co_filename and code.co_name in _RESTORING for code in frames)


def _damage(path: Path) -> str | None:
    size = path.stat().st_size
    if size == 0:
        return (
            f"an empty one: `{path}`. Its writer was interrupted, or its disk was full. Resume from the one before it."
        )
    with path.open("rb") as file:
        starts_whole = file.read(2) == b"PK"  # a zip file, whose directory is at its end
    if starts_whole and not zipfile.is_zipfile(path):
        return f"one that ends in its middle: `{path}`, {size} bytes. Resume from the one before it."
    return None


def _other_kind(path: Path) -> str | None:
    if _is_safetensors(path):
        return _weights_alone(path, "safetensors.torch.load_model(module, path)")
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:
        if zipfile.is_zipfile(path):
            return None  # torch's own error says what is not allowed in it
        why = str(error).strip().split("\n")[0][:100]
        return (
            f"something else: `{path}`, {path.stat().st_size} bytes, is no checkpoint ({why}). Resume from another one."
        )
    if isinstance(content, Mapping) and all(name in content for name in _BELONGS):
        return None
    return _weights_alone(path, "module.load_state_dict(torch.load(path))")


def _weights_alone(path: Path, way: str) -> str:
    return (
        f"one without the state of a fit, such as its loops and optimizer: `{path}`. If it holds weights, load them into "
        f"the module (`{way}`), and start a new fit without `ckpt_path`."
    )


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        length, head = int.from_bytes(file.read(8), "little"), file.read(1)
        if head != b"{" or length > path.stat().st_size:
            return False
        try:
            return isinstance(json.loads(head + file.read(length - 1)), dict)
        except ValueError:
            return False
