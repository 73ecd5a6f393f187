from __future__ import annotations

from collections.abc import Iterator, Sized

import torch
from torch.utils.data import RandomSampler


class EpochShuffle(RandomSampler):
    """A random order that depends on the seed and the epoch alone: a resumed fit sees what an uninterrupted one would.

    Lightning calls :meth:`set_epoch` before each epoch. Without Lightning, every pass counts as an epoch.

    Args:
        source: What is indexed; only its length matters.
        seed: Another seed gives another order.

    Example:
        >>> shuffle = EpochShuffle(range(5), seed=0)
        >>> first, second = list(shuffle), list(shuffle)
        >>> shuffle.set_epoch(0)
        >>> first == list(shuffle), first == second
        (True, False)
    """

    def __init__(self, source: Sized, *, seed: int) -> None:
        super().__init__(source)
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the number of the next pass over the data."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        # A generator of its own: the global one is in another state in a resumed fit.
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        self.epoch += 1
        yield from torch.randperm(len(self.data_source), generator=generator).tolist()
