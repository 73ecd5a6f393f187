"""Gradients of several losses by one parameter: held in memory, or computed block by block when they are used."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import override


class Rows(ABC):
    """Gradients of ``k`` losses by one parameter, as rows over its flat elements.

    Attributes:
        width: Blocks start at multiples of it, and end at one, or at the end of the parameter.
    """

    width: int = 1

    @abstractmethod
    def __len__(self) -> int:
        """Number of losses, ``k``."""

    @abstractmethod
    def fill_(self, block: Tensor, here: slice) -> None:
        """Overwrite ``block [k, n]`` with the elements ``here`` of every row, converted to the dtype of the block."""

    def views(self, here: slice, like: Tensor) -> list[Tensor] | None:
        """The elements ``here`` of every row without a copy; ``None`` unless held in dtype and device of ``like``."""
        return None

    def among(self, wanted: Sequence[int]) -> tuple[Rows, list[int]]:
        """Rows that include those ``wanted``, and their numbers. All of them, unless leaving some out saves work."""
        return self, list(range(len(self)))

    def only_one(self, multipliers: Tensor) -> tuple[Tensor, float] | None:
        """The single row with a multiplier, and its multiplier; ``None`` if several rows have one, or it is not held.

        A weighted sum of one row needs no buffer, and can be taken out of the weights in one operation.
        """
        return None


class StoredRows(Rows):
    """Rows held in memory, each of the parameter's shape; ``None`` counts as zero.

    Example:
        >>> block = torch.zeros(2, 2)
        >>> StoredRows([torch.tensor([1.0, 2.0, 3.0]), None]).fill_(block, slice(1, 3))
        >>> block.tolist()
        [[2.0, 3.0], [0.0, 0.0]]
    """

    def __init__(self, tensors: Sequence[Tensor | None]) -> None:
        self._tensors = list(tensors)
        self._flat = [(i, t.reshape(-1)) for i, t in enumerate(tensors) if t is not None]

    @override
    def __len__(self) -> int:
        return len(self._tensors)

    @override
    def fill_(self, block: Tensor, here: slice) -> None:
        if len(self._flat) < len(self):
            block.zero_()
        if self._flat:  # all in one call: each call takes Python's lock, for which other threads wait
            torch._foreach_copy_([block[i] for i, _ in self._flat], [row[here] for _, row in self._flat])

    @override
    def views(self, here: slice, like: Tensor) -> list[Tensor] | None:
        as_they_are = all(row.dtype == like.dtype and row.device == like.device for _, row in self._flat)
        return [row[here] for _, row in self._flat] if as_they_are and len(self._flat) == len(self) else None

    @override
    def among(self, wanted: Sequence[int]) -> tuple[Rows, list[int]]:
        return StoredRows([self._tensors[j] for j in wanted]), list(wanted)

    @override
    def only_one(self, multipliers: Tensor) -> tuple[Tensor, float] | None:
        held = zip(self._tensors, multipliers.tolist(), strict=True)
        at_work = [(row, m) for row, m in held if row is not None and m]
        return at_work[0] if len(at_work) == 1 else None


class Piece(ABC):
    """What one use of a parameter adds to its gradients of ``n`` losses. The parameter is seen as a matrix ``R x C``."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of losses, ``n``."""

    @abstractmethod
    def add_(self, block: Tensor, start: int) -> None:
        """Add the matrix rows from ``start`` on to ``block [n, r, C]``."""

    @abstractmethod
    def tensors(self) -> list[Tensor]:
        """The tensors it holds."""


class OuterProducts(Piece):
    r"""For a matrix that multiplies tokens: :math:`\sum_t u_t v_t^\top` over the tokens ``t`` of each loss.

    The same tensors are multiplied in the same way each time, so a block is the same, to the bit, every time.

    Args:
        left: ``u``, ``[T, R]``, loss by loss.
        right: ``v``, ``[T, C]``.
        counts: Number of tokens of each loss; they add up to ``T``.

    Example:
        >>> block = torch.zeros(2, 1, 2)
        >>> ones = torch.ones(3, 1)
        >>> OuterProducts(ones, torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), counts=[1, 2]).add_(block, 0)
        >>> block.tolist()
        [[[1.0, 2.0]], [[8.0, 10.0]]]
    """

    def __init__(self, left: Tensor, right: Tensor, counts: Sequence[int]) -> None:
        self._left, self._right, self._counts = left, right, list(counts)

    @override
    def __len__(self) -> int:
        return len(self._counts)

    @override
    def add_(self, block: Tensor, start: int) -> None:
        left = _raised(self._left[:, start : start + block.shape[1]]).split(self._counts)
        for place, u, v in zip(block, left, _raised(self._right).split(self._counts), strict=True):
            place += u.mT @ v

    @override
    def tensors(self) -> list[Tensor]:
        return [self._left, self._right]


class ScatteredRows(Piece):
    """For a look-up table: each token adds its gradient to the row that it looked up.

    Args:
        index: Row of each token, ``[T]`` int64.
        values: Gradient of each looked-up row, ``[T, C]``.
        owner: Number of the loss of each token, ``[T]`` int64.
        count: Number of losses.

    Example:
        >>> block = torch.zeros(1, 2, 1)
        >>> one, two = torch.tensor([1]), torch.tensor([[5.0]])
        >>> ScatteredRows(one, two, owner=torch.tensor([0]), count=1).add_(block, 0)
        >>> block.tolist()
        [[[0.0], [5.0]]]
    """

    def __init__(self, index: Tensor, values: Tensor, owner: Tensor, count: int) -> None:
        self._index, self._values, self._owner, self._count = index, values, owner, count

    @override
    def __len__(self) -> int:
        return self._count

    @override
    def add_(self, block: Tensor, start: int) -> None:
        here = ((self._index >= start) & (self._index < start + block.shape[1])).nonzero()[:, 0]
        places = (self._owner[here], self._index[here] - start)
        # Accumulate: a token that occurs twice in an example adds to the same row twice.
        block.index_put_(places, self._values[here].to(block.dtype), accumulate=True)

    @override
    def tensors(self) -> list[Tensor]:
        return [self._index, self._values, self._owner]


class WrittenOut(Piece):
    """For a small parameter, whose gradients ``[n, R, C]`` are held.

    Example:
        >>> block = torch.zeros(1, 1, 1)
        >>> WrittenOut(torch.tensor([[[1.0], [2.0]]])).add_(block, 1)
        >>> block.tolist()
        [[[2.0]]]
    """

    def __init__(self, values: Tensor) -> None:
        self._values = values

    @override
    def __len__(self) -> int:
        return len(self._values)

    @override
    def add_(self, block: Tensor, start: int) -> None:
        block += self._values[:, start : start + block.shape[1]]

    @override
    def tensors(self) -> list[Tensor]:
        return [self._values]


class SumOfPieces(Rows):
    """Rows that are not held: the sum of pieces, one for each use of the parameter, is computed anew each time.

    A matrix that is used twice, as an embedding and as an output head, has pieces of both uses.

    Args:
        count: Number of losses, ``k``.
        width: Number of columns of the parameter, seen as a matrix.

    Example:
        >>> rows = SumOfPieces(count=2, width=1)
        >>> rows.add(0, WrittenOut(torch.ones(1, 3, 1)))
        >>> rows.add(1, WrittenOut(torch.full((1, 3, 1), 2.0)))
        >>> block = torch.empty(2, 2)
        >>> rows.fill_(block, slice(1, 3))
        >>> block.tolist()
        [[1.0, 1.0], [2.0, 2.0]]
    """

    def __init__(self, count: int, width: int) -> None:
        self.width = width
        self.pieces: list[tuple[int, Piece]] = []
        self._count = count

    @override
    def __len__(self) -> int:
        return self._count

    def add(self, first: int, piece: Piece) -> None:
        """Add a ``piece`` that belongs to the losses from ``first`` on."""
        self.pieces.append((first, piece))

    @override
    def fill_(self, block: Tensor, here: slice) -> None:
        # Blocks hold whole rows of the matrix, since they start and end at multiples of `width`.
        matrices = block.zero_().unflatten(1, (-1, self.width))
        for first, piece in self.pieces:
            piece.add_(matrices[first : first + len(piece)], here.start // self.width)


def _raised(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
