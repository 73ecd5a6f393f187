from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor


def load_weights(path: str | Path) -> dict[str, Tensor]:
    """Weights by name, on the CPU.

    Args:
        path: A safetensors file, a Hugging Face folder with such files, or a checkpoint of Lightning's or torch's.

    Raises:
        FileNotFoundError: If there is no such file, or none in the folder.
    """
    path = Path(path)
    if path.is_dir():
        parts = sorted(path.glob("*.safetensors"))
        if not parts:
            raise FileNotFoundError(f"`{path}` should hold a file of weights, `*.safetensors`. Found none.")
        return {name: tensor for part in parts for name, tensor in load_file(part).items()}
    if not path.is_file():
        raise FileNotFoundError(f"There should be weights at `{path}`. Found neither a file nor a folder.")
    if path.suffix == ".safetensors":
        return load_file(path)
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    state = loaded.get("state_dict", loaded)
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def named_as(weights: dict[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """``weights`` by the ``names`` of a network: without the prefix that a LightningModule's attribute gives them.

    Example:
        >>> named_as({"network.bias": torch.ones(1)}, ["bias"])
        {'bias': tensor([1.])}
    """
    names = list(names)
    if any(name in weights for name in names):
        return weights  # the names fit as they are: nothing to remove
    # The shortest prefix is the network's own attribute; longer ones come from names that end alike (`a.b.bias`, `bias`).
    prefixes = {key.removesuffix(name) for key in weights for name in names if key.endswith(f".{name}")}
    prefix = min(prefixes, key=len, default="")
    return {key.removeprefix(prefix): tensor for key, tensor in weights.items() if key.startswith(prefix)}
