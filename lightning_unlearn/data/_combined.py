from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from typing import Any

from lightning.pytorch.utilities import CombinedLoader
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader


class CombinedBatches:
    """Several loaders as one: a batch is what a trainer hands to ``training_step``.

    Args:
        loaders: A ``CombinedLoader``, or a mapping or sequence of loaders, of which the shorter ones are repeated.

    Example:
        >>> list(CombinedBatches({"a": DataLoader([1, 2], 1), "b": DataLoader([3], 1)}))
        [{'a': tensor([1]), 'b': tensor([3])}, {'a': tensor([2]), 'b': tensor([3])}]
    """

    def __init__(self, loaders: Any) -> None:
        self._loaders = getattr(loaders, "iterables", loaders)
        self._mode: Any = getattr(loaders, "_mode", "max_size_cycle")  # a trainer's own default

    def __iter__(self) -> Iterator[Any]:
        # Made anew: a `CombinedLoader` holds its iterator, and the trainer may be in the middle of the user's.
        for batch, _, _ in CombinedLoader(self._loaders, self._mode):
            yield batch

    def apart(self) -> CombinedBatches:
        """The same, each loader :func:`apart`."""
        own = copy(self)
        own._loaders = tree_map(apart, self._loaders)
        return own


def apart(loader: Any) -> Any:
    """The same loader with an iterator of its own: whoever is in the middle of ``loader`` goes on undisturbed.

    A loader with persistent workers has one iterator, which starts anew whenever the loader is iterated again.

    Example:
        >>> loader = DataLoader([1, 2, 3], num_workers=1, persistent_workers=True)
        >>> iterator = iter(loader)
        >>> next(iterator), list(apart(loader)), next(iterator)
        (tensor([1]), [tensor([1]), tensor([2]), tensor([3])], tensor([2]))
    """
    if isinstance(loader, CombinedBatches):
        return loader.apart()
    if not isinstance(loader, DataLoader) or not (loader.persistent_workers or loader._iterator is not None):
        return loader
    own = copy(loader)
    own._iterator = None
    return own


def one_loader(loaders: Any) -> Iterable[Any] | None:
    """``loaders`` as one iterable of batches; ``None`` if they are nothing that can be iterated.

    Example:
        >>> isinstance(one_loader([DataLoader([1]), DataLoader([2])]), CombinedBatches), one_loader([1, 2]), one_loader(3)
        (True, [1, 2], None)
    """
    # A sequence of batches is one loader; a sequence of `DataLoader`s is several. By name: there is a `CombinedLoader` in
    # each of Lightning's two packages.
    several = (
        isinstance(loaders, Mapping)
        or type(loaders).__name__ == "CombinedLoader"
        or (isinstance(loaders, Sequence) and any(isinstance(part, DataLoader) for part in loaders))
    )
    if several:
        return CombinedBatches(loaders)
    return loaders if isinstance(loaders, Iterable) else None
