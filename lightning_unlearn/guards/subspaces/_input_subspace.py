from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.functional.settings import check_whole
from lightning_unlearn.functional.subspace import energy_rank, nystrom
from lightning_unlearn.guards.subspaces._base import Subspace


class InputSubspace(Subspace):
    r"""Protect the directions that hold most of the energy of retained inputs: Federated Orthogonal Training's criterion.

    The fewest directions :math:`U` with

    .. math:: \lVert K U \rVert_F^2 \ge \epsilon \, \lVert K \rVert_F^2

    with the inputs of a layer as the rows of :math:`K`. Neither inputs nor a ``d x d`` matrix are kept. Every batch is added
    to a sketch :math:`Y = K^\top K \, \Omega` of ``d x width`` numbers, and to the energy, which is exact.

    Two differences to the published code. It sketches :math:`K^\top \Omega`, with new random numbers for every row; here the
    spectrum is squared, so a thin sketch resolves more of it, and the result does not depend on which process sees which
    row. And its residual criterion compares lengths with an energy in squares; here both are squares.

    Args:
        energy: :math:`\epsilon`, in (0, 1].
        rank: The most directions to protect in a layer, even if they hold less energy. Defaults to no limit.
        width: Width of the sketch. Layers with no more inputs (a bias counts as one) are treated exactly. In wider layers
            the sketch may find less energy than there is, if the spectrum falls off slowly; then more directions than
            necessary are protected. A warning names a layer in which all directions of the sketch are needed.
        seed: Seed of :math:`\Omega`. Global random states are not touched.

    Example:
        >>> inputs = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.1, 0.0]], dtype=torch.float64)
        >>> subspace = InputSubspace(energy=0.9)
        >>> subspace.protected(subspace.summary(inputs))[0].abs().round(decimals=6)
        tensor([[1.],
                [0.],
                [0.]], dtype=torch.float64)

    References:
        Bakman et al., `Federated Orthogonal Training <https://arxiv.org/abs/2309.01289>`_, 2024.
    """

    def __init__(self, energy: float = 0.95, rank: int | None = None, width: int = 256, seed: int = 0) -> None:
        if not 0 < energy <= 1:
            raise ValueError(f"`energy` should be in (0, 1]. Found `energy = {energy}`.")
        if rank is not None:
            check_whole("rank", rank, why=", or `None`")
        check_whole("width", width)
        if width < (rank or 1):
            raise ValueError(
                f"`width` should be at least `rank`, better twice that, and at least 1. Found `width = {width}`, "
                f"`rank = {rank}`."
            )
        self.energy = energy
        self.rank = rank
        self.width = width
        self.seed = seed

    @override
    def summary(self, inputs: Tensor) -> Tensor:
        """The sketch, and in one more column the energy of each input."""
        sketch = inputs.T @ (inputs @ self._test(inputs))
        return torch.cat([sketch, inputs.square().sum(0)[:, None]], dim=1)

    @override
    def protected(self, summary: Tensor) -> tuple[Tensor, bool]:
        total = summary[:, -1].sum()
        values, vectors = nystrom(summary[:, :-1], self._test(summary.T))
        needed = energy_rank(values, total, self.energy)
        # The sum of all eigenvalues is the total energy, but for rounding: hence the 1e-9.
        enough = bool(values[:needed].sum() >= self.energy * (1 - 1e-9) * total)
        rank = needed if self.rank is None else min(needed, self.rank)
        return vectors[:, :rank].contiguous(), enough or rank == self.rank

    def _test(self, inputs: Tensor) -> Tensor:
        return gaussian(inputs.shape[1], min(self.width, inputs.shape[1]), self.seed).to(inputs.device)


@lru_cache(maxsize=8)
def gaussian(rows: int, columns: int, seed: int) -> Tensor:
    """Orthonormal columns in random directions, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)  # on the CPU, so that every device gets the same numbers
    test: Tensor = torch.linalg.qr(torch.randn(rows, columns, dtype=torch.float64, generator=generator))[0]
    return test
