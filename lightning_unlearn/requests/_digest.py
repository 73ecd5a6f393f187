"""Hashes that notice a changed bit, of plain values and of weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor


def as_line(value: Any) -> str:
    """A value as JSON in one way only: sorted keys, no spaces.

    Example:
        >>> as_line({"b": 1, "a": [None, 0.5]})
        '{"a":[null,0.5],"b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest_of(value: Any) -> str:
    """SHA-256 of a plain value, in hex.

    Example:
        >>> digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
        True
    """
    return sha256(as_line(value).encode()).hexdigest()


@torch.no_grad()
def weights_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and bits of tensors, whatever their order and device.

    Example:
        >>> weights_digest({"w": torch.zeros(2)}) == weights_digest({"w": -torch.zeros(2)})
        False
    """
    digest = sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(as_line([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
