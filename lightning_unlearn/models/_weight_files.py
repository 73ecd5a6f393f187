"""Read weights from checkpoints of several formats."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from lightning_unlearn.functional.text import visible

_INDEX = "model.safetensors.index.json"
_ADAPTER = "adapter_model.safetensors"


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint onto the CPU, by the names that they have in it.

    Args:
        path: A Lightning checkpoint, a file with a ``state_dict``, a ``.safetensors`` file, or a folder of Hugging Face's
            with ``model.safetensors``, in one piece or several, or with ``adapter_model.safetensors`` of PEFT.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        ValueError: If it holds no weights that can be read.
    """
    source = find_weights(path)
    try:
        weights = _read(source)
    except Exception as error:  # of torch, of safetensors, of pickle, or of what garbage is taken for
        why = visible(str(error).strip().split("\n")[0])
        raise ValueError(
            f"Weights should be in a Lightning checkpoint, a `.safetensors` file, or a folder with `model.safetensors`. "
            f"Found {str(source)!r}, which cannot be read: {why} Save the weights alone: "
            "`safetensors.torch.save_model(network, 'control.safetensors')`."
        ) from error
    if not weights:
        raise ValueError(
            f"A checkpoint should hold tensors by name, under `state_dict` or by themselves. Found none in {str(source)!r}."
        )
    return weights


def find_weights(path: str | Path) -> Path:
    """The file or folder at ``path``, after a check that :func:`read_weights` can read its kind.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is empty, or a folder without weights of a whole network.
    """
    source = Path(path).expanduser()
    if not source.exists():
        raise FileNotFoundError(
            f"Weights should be in an existing file or folder. Found nothing at {str(source)!r}, looked up in "
            f"{str(Path.cwd())!r}."
        )
    if source.is_file() and source.stat().st_size == 0:
        raise ValueError(
            f"A file of weights should hold some. Found an empty one: {str(source)!r}. Its writer was interrupted, or its "
            "disk was full: save the weights again, or take an older file."
        )
    # A folder with a sharded checkpoint has other files: none is a whole network.
    if source.is_dir() and not any((source / name).exists() for name in ("model.safetensors", _INDEX, _ADAPTER)):
        holds = ", ".join(sorted(f"`{file.name}`" for file in source.iterdir())[:5]) or "nothing"
        raise ValueError(
            f"A folder of weights should hold `model.safetensors`, or its parts and `{_INDEX}`. Found {holds} in "
            f"{str(source)!r}. Gather a sharded checkpoint into one file (`python -m "
            "lightning.pytorch.utilities.consolidate_checkpoint`); save others anew (`SavePretrained(folder)`)."
        )
    return source


def _read(source: Path) -> dict[str, Tensor]:
    if source.is_dir():
        return _read_folder(source)
    return load_file(source) if source.suffix == ".safetensors" else _read_checkpoint(source)


def _read_folder(folder: Path) -> dict[str, Tensor]:
    index = folder / _INDEX
    parts = ["model.safetensors" if (folder / "model.safetensors").exists() else _ADAPTER]
    if index.exists():
        parts = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    return {name: tensor for part in parts for name, tensor in load_file(folder / part).items()}


def _read_checkpoint(file: Path) -> dict[str, Tensor]:
    # Tensors and plain values only: a checkpoint from elsewhere must not run code.
    loaded: Any = torch.load(file, map_location="cpu", weights_only=True)
    state = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else {}
    return {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
