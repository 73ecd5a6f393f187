"""What each row of a language-model batch holds besides its text: pixels, sound, types of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

_TEXT = {"input_ids", "attention_mask", "labels"}


def row_contents(batch: Mapping[str, Any], labels: Tensor, present: Tensor) -> list[list[Tensor]]:
    """The other inputs of each row, as tensors to be hashed, ``B`` lists.

    An input with a value or an entry for each row is taken apart; as many images as rows are taken for one each. Others,
    such as the pixels of all images of a batch one after the other, are counted to every row, with the number of the row:
    rows that share their text and not their images never have one key, and a row has another key in another batch. Batches
    of one row always have the same.

    Numbers and strings per row, such as its number or entity, are no inputs.
    """
    names = sorted(set(batch) - _TEXT)
    inputs = {name: batch[name] for name in names if _is_input(batch[name])}
    rows: list[list[Tensor]] = [[] for _ in range(len(labels))]
    apart = _can_be_taken_apart(inputs, len(labels))
    for row, contents in enumerate(rows):
        for name, value in inputs.items():
            contents.append(_as_bytes(name))
            if isinstance(value, Tensor) and value.shape == labels.shape:
                contents.append(value[row][present[row].to(value.device)])
            else:
                contents.extend(_tensors(value[row] if apart else value))
        if inputs and not apart:
            contents.append(torch.tensor(row))
    return rows


def beside(batch: Mapping[str, Any], labels: Tensor) -> list[Tensor]:
    """The other inputs with a part for each row, in the order of their names."""
    values = (batch[name] for name in sorted(set(batch) - _TEXT))
    return [v for v in values if isinstance(v, Tensor) and v.dim() > 1 and len(v) == len(labels)]


def _is_input(value: Any) -> bool:
    """Whether a value may be an input of a network: tensors of more than one axis, or anything that holds a tensor."""
    if isinstance(value, Tensor):
        return value.dim() > 1
    if isinstance(value, Mapping) and {"input_ids", "labels"} & set(value):
        return False  # a batch beside this one, such as the companions of `PairedData`
    return any(isinstance(leaf, Tensor) for leaf in _leaves(value)) or _depth(value) > 1


def _can_be_taken_apart(inputs: Mapping[str, Any], rows: int) -> bool:
    """Whether all inputs have a part for each row."""
    # Sizes of a grid of patches are per image, and say that pixels of all images stand one after the other: as many images
    # as rows need not be one for each.
    flattened = any(name.endswith(("grid_thw", "grid_hws", "grid_hw")) for name in inputs)
    per_row = all(isinstance(v, Tensor | list | tuple) and len(v) == rows for v in inputs.values())
    return per_row and not flattened


def _tensors(value: Any) -> Iterator[Tensor]:
    """All that ``value`` holds, as tensors that tell different values and different places apart."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for key in value:
            yield _as_bytes(repr(key))
            yield from _tensors(value[key])
    elif isinstance(value, list | tuple):
        yield torch.tensor(len(value))
        for part in value:
            yield from _tensors(part)
    else:
        yield _as_bytes(repr(value))


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if not isinstance(value, list | tuple):
        yield value
        return
    for part in value:
        yield from _leaves(part)


def _depth(value: Any) -> int:
    """How many lists stand inside of each other."""
    return 1 + max(map(_depth, value), default=0) if isinstance(value, list | tuple) else 0


def _as_bytes(text: str) -> Tensor:
    return torch.tensor(list(text.encode()), dtype=torch.uint8)
