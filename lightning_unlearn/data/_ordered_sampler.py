from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DistributedSampler

from lightning_unlearn.data._stream import RowsByEpoch, share


class OrderedSampler(DistributedSampler[Any]):
    """Rows of one epoch, shared among ranks.

    It is a ``DistributedSampler`` so that Lightning does not replace it by one of its own. Lightning calls ``set_epoch``
    before each epoch, also after a resume, so ``self.epoch`` is the epoch of the fit.
    """

    def __init__(self, rows: RowsByEpoch, world_size: int, rank: int) -> None:
        super().__init__(rows(0), num_replicas=world_size, rank=rank, shuffle=False)  # type: ignore[arg-type]  # for its length
        self._rows = rows

    def __iter__(self) -> Iterator[int]:
        return iter(share(self._rows(self.epoch), self.rank, self.num_replicas))

    def __len__(self) -> int:
        return len(share(self._rows(self.epoch), self.rank, self.num_replicas))
