from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from lightning_unlearn.runtime import checksum


class Intact:
    """Makes sure, again and again, that every weight is the same after a block as before.

    What was found after one block is what the next one starts from: one hash of the weights for each block.

    Example:
        >>> layer, intact = nn.Linear(1, 1), Intact()
        >>> with intact(layer, "Looking"):
        ...     _ = layer.weight.sum()
    """

    def __init__(self) -> None:
        self._before: int | None = None

    @contextmanager
    def __call__(self, module: nn.Module, who: str) -> Iterator[None]:
        """Watch over one block.

        Args:
            module: Whose weights and buffers they are; the same for each block.
            who: For the error.

        Raises:
            RuntimeError: If a weight or buffer has changed.
        """
        # Bits of the local shards: no collective, and a rank that differs raises for itself.
        before = checksum(module) if self._before is None else self._before
        yield
        self._before = checksum(module)
        if self._before != before:
            raise RuntimeError(
                f"{who} should leave every weight as it was. Found weights that differ: the fit would go on from a changed "
                "model. Restore the last checkpoint, and leave out the culprit."
            )
