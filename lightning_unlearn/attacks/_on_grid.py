from __future__ import annotations

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_unlearn.functional.grids import Grid, widths

# Rounding moves weights that are spread evenly in their buckets by as much as `even`. On a grid that was itself stored in
# bf16 it is under a fiftieth of that.
_ON_GRID = 0.05
_ROWS = 16
"""Of a matrix: enough to tell, and all of them would take as long as a look at the network."""


class OnGrid:
    """Notes, the first time that a network is rounded, whether it lies on the very grid that it is rounded to.

    Example:
        >>> import torch
        >>> note, grid = OnGrid(), Grid(bits=2)
        >>> note.saw(torch.tensor([[-1.0, 0.0, 1.0]]), torch.tensor([[-1.0, 0.0, 1.0]]), grid)
        >>> note.ratio
        0.0
    """

    def __init__(self) -> None:
        self.is_settled = False
        self._moved = self._even = 0.0

    @property
    def ratio(self) -> float:
        """How far rounding moves weights, over how far it would move them if they were spread evenly in their buckets."""
        return (self._moved / self._even) ** 0.5 if self._even else 1.0

    def saw(self, weight: Tensor, rounded: Tensor, grid: Grid) -> None:
        """Take a weight, as it is and rounded, into account: some of its rows, where they share no scale."""
        step = 1 if _shares_scales(weight, grid) else max(1, len(weight) // _ROWS)
        weight, rounded = weight[::step], rounded[::step]
        self._moved += float((rounded.double() - weight).square().sum())
        self._even += float(widths(weight, grid).square().sum()) / 12

    def settle(self, attack: str) -> None:
        """Warn if the weights lie on the grid. Only the first call does anything."""
        if not self.is_settled and self.ratio < _ON_GRID:
            rank_zero_warn(
                f"{attack} should round a network that does not lie on its own grid yet. Found that rounding moves its "
                f"weights by {self.ratio:.1%} of what it usually does: they were stored on this very grid. There a code "
                "changes only when its weight moves by half a bucket, so small changes are erased exactly. On any other "
                "grid they are not: add an attack on another one, such as `Quantize(bits=4, group_size=128)`."
            )
        self.is_settled = True


def _shares_scales(weight: Tensor, grid: Grid) -> bool:
    """Whether rows have a scale in common, so that some of them alone would have another."""
    if grid.codebook == "int":
        return grid.group_size == "tensor"
    return bool(weight[:1].numel() % (grid.group_size if isinstance(grid.group_size, int) else 64))
