from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from lightning_unlearn.functional.int8_rows import PackedRows, pack_int8_, room_for_int8
from lightning_unlearn.functional.rows import Rows
from lightning_unlearn.guards.directions import Direction
from lightning_unlearn.guards.storages._base import Storage, raised
from lightning_unlearn.runtime import map_in_threads

# Blocks that are packed at once. On the CPU they should fit the cache; a GPU is faster with few large kernels.
_BLOCKS = {"cpu": 512}
_MANY_BLOCKS = 1 << 14


class Int8(Storage):
    """As int8 with a scale for every 256 elements, in a quarter of the memory.

    On the bundled model the applied step kept a cosine of up to 4e-5 with the true gradient, where bfloat16 kept 7e-6.

    Example:
        >>> import torch
        >>> Int8().stored(torch.ones(3, 200)).shape
        torch.Size([3, 260])
    """

    # Codes with a scale per 256 elements can neither be projected nor joined as they are.
    allows_restrictions: ClassVar[bool] = False
    can_be_joined: ClassVar[bool] = False

    @override
    def stored(self, gradient: Tensor, scale: float = 1.0) -> Tensor:
        values = raised(gradient, scale)
        packed = room_for_int8(values)
        flat, size = values.reshape(-1), _BLOCKS.get(values.device.type, _MANY_BLOCKS)
        here = [slice(start, start + size) for start in range(0, len(packed), size)]
        map_in_threads(lambda blocks: pack_int8_(packed, flat, blocks), here, values.device)
        return packed

    @override
    def rows(self, directions: Sequence[Direction], numbers: Sequence[int], sizes: Sequence[int]) -> Rows:
        (only,) = numbers
        return PackedRows([row[only] for row in directions])
