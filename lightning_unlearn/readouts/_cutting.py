"""Batches of one, cut from a batch whose form is not known beforehand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_unlearn.readouts._base import content_key

Cut = Callable[[Any], "list[Any] | None"]
"""From a batch to batches of one example each; ``None`` if the batch is not of that form."""

_PLAIN = (str, bytes, bool, int, float, complex, type(None))


def along_first_axis(batch: Any) -> list[Any] | None:
    """Cut a batch in which the first axis of every tensor counts the examples. Numbers and single tensors stay whole.

    Example:
        >>> along_first_axis([torch.arange(2), {"name": ["a", "b"], "scale": 0.5}])
        [[tensor([0]), {'name': ['a'], 'scale': 0.5}], [tensor([1]), {'name': ['b'], 'scale': 0.5}]]
        >>> along_first_axis([torch.zeros(2), torch.zeros(3)]) is None
        True
    """
    leaves = list(_leaves(batch))
    sizes = {len(leaf) for leaf in leaves if _is_array(leaf) and leaf.ndim}
    if len(sizes) != 1 or not all(_is_array(leaf) or isinstance(leaf, _PLAIN) for leaf in leaves):
        return None
    (size,) = sizes
    return [_rows(batch, size, slice(j, j + 1)) for j in range(size)]


def along_lists(batch: Any) -> list[Any] | None:
    """Cut a batch of lists, one entry per example, as detection has: images of many sizes, and a mapping for each.

    Example:
        >>> images, targets = [torch.zeros(3, 2, 2), torch.zeros(3, 4, 4)], [{"boxes": torch.zeros(1, 4)}, {}]
        >>> [len(part[0]) for part in along_lists((images, targets))]
        [1, 1]
    """
    parts = list(batch.values()) if isinstance(batch, Mapping) else batch
    if not _is_sequence(parts) or not parts or not any(_is_sequence(part) for part in parts):
        return None
    sizes = {len(part) if _is_sequence(part) or (_is_array(part) and part.ndim) else -1 for part in parts}
    if len(sizes) != 1 or -1 in sizes:
        return None
    (size,) = sizes
    return [_like(batch, [part[j : j + 1] for part in parts]) for j in range(size)]


def as_list_of_examples(batch: Any) -> list[Any] | None:
    """Cut a batch that is itself a list of examples, as ``collate_fn=list`` gives.

    Example:
        >>> as_list_of_examples([{"a": 1}, {"a": 2}])
        [[{'a': 1}], [{'a': 2}]]
    """
    return [batch[j : j + 1] for j in range(len(batch))] if _is_sequence(batch) and len(batch) else None


CUTS = (along_first_axis, along_lists, as_list_of_examples)
"""The forms that are tried, the most usual first."""


def content_of(batch: Any) -> str:
    """A key of all tensors, numbers and strings in ``batch``, in whatever objects.

    Example:
        >>> content_of({"x": torch.zeros(2), "name": "a"}) == content_of({"x": torch.zeros(2), "name": "b"})
        False
    """
    return content_key(*(_as_tensor(leaf) for leaf in _leaves(batch) if _is_array(leaf) or isinstance(leaf, _PLAIN)))


def glimpse_of(batch: Any) -> str:
    """A key of the first numbers of each tensor: cheap, where no more is needed than to tell batches apart."""
    return content_key(*(_beginning(leaf) for leaf in _leaves(batch) if isinstance(leaf, Tensor)))


def _beginning(tensor: Tensor) -> Tensor:
    while tensor.dim() > 1 and len(tensor):
        tensor = tensor[0]
    return tensor[:64] if tensor.dim() else tensor


def _leaves(batch: Any, seen: frozenset[int] = frozenset()) -> Iterator[Any]:
    """What a batch is made of, down to tensors and plain values; an object of another kind is opened by its attributes."""
    if _is_array(batch) or isinstance(batch, _PLAIN) or id(batch) in seen:
        yield batch
        return
    inside = seen | {id(batch)}  # objects may refer back to what holds them
    if isinstance(batch, Mapping):
        parts: Any = batch.values()
    elif isinstance(batch, Sequence | set):
        parts = batch
    else:
        yield batch  # says that the batch holds something that cannot be cut
        parts = getattr(batch, "__dict__", {}).values()
    for part in parts:
        yield from _leaves(part, inside)


def _rows(part: Any, size: int, here: slice) -> Any:
    if _is_array(part):
        return part[here] if part.ndim else part
    if isinstance(part, Mapping):
        return _like(part, [_rows(value, size, here) for value in part.values()])
    if not _is_sequence(part):
        return part
    if not any(_is_array(leaf) for leaf in _leaves(part)) and len(part) == size:
        return part[here]  # names, file names, captions
    return _like(part, [_rows(value, size, here) for value in part])


def _like(whole: Any, parts: list[Any]) -> Any:
    """A container as ``whole`` is, of other parts."""
    if isinstance(whole, Mapping):
        named = dict(zip(whole, parts, strict=True))
        return named if type(whole) is dict else type(whole)(named)  # type: ignore[call-arg]
    return (
        type(whole)(*parts) if hasattr(whole, "_fields") else type(whole)(parts)
    )  # a named tuple takes them one by one


def _is_sequence(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray)


def _as_tensor(leaf: Any) -> Tensor:
    if isinstance(leaf, Tensor):
        return leaf
    if isinstance(leaf, np.ndarray) and leaf.dtype.kind in "biuf":
        return torch.from_numpy(np.ascontiguousarray(leaf))
    return torch.tensor(list(repr(leaf).encode()), dtype=torch.uint8)
