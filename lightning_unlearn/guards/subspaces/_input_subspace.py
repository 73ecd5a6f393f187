from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.functional.subspace import energy_rank, nystrom
from lightning_unlearn.guards.subspaces._base import Subspace


class InputSubspace(Subspace):
    r"""Protect the directions that hold most of the energy of retained inputs: Federated Orthogonal Training's criterion.

    The fewest directions :math:`U` with

    .. math:: \lVert K U \rVert_F^2 \ge \epsilon \, \lVert K \rVert_F^2

    for the inputs of a layer as the rows of :math:`K`. No inputs and no ``d x d`` matrix are kept: every batch is added to
    a Gaussian sketch :math:`Y = K^\top K \, \Omega` of ``d x width`` numbers, and to the energy, which is exact. The
    published code sketches :math:`K^\top \Omega` with new random numbers for every row; this one squares the spectrum,
    so that a thin sketch tells more, and comes out the same however the rows are shared among processes. The published
    residual criterion compares lengths where its energy is in squares; here all is in squares.

    Args:
        energy: :math:`\epsilon`, in (0, 1].
        rank: At most so many directions, however much energy they hold: a small subspace per matrix.
        width: Of the sketch. Layers of at most as many inputs (and 1 more with a bias) are treated exactly. In others,
            unless the spectrum falls off within it, less energy is found than there is, and more directions are
            protected than the fewest; where it takes all of the sketch's, a warning names the layer.
        seed: Of :math:`\Omega`; random states stay as they were.

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
        if rank is not None and rank < 1:
            raise ValueError(f"`rank` should be at least 1, or `None`. Found `rank = {rank}`.")
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
        enough = bool(values[:needed].sum() >= self.energy * (1 - 1e-9) * total)
        rank = needed if self.rank is None else min(needed, self.rank)
        return vectors[:, :rank].contiguous(), enough or rank == self.rank

    def _test(self, inputs: Tensor) -> Tensor:
        return gaussian(inputs.shape[1], min(self.width, inputs.shape[1]), self.seed).to(inputs.device)


@lru_cache(maxsize=8)
def gaussian(rows: int, columns: int, seed: int) -> Tensor:
    """Orthonormal columns in random directions, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    test: Tensor = torch.linalg.qr(torch.randn(rows, columns, dtype=torch.float64, generator=generator))[0]
    return test
