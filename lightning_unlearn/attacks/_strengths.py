"""What rounding, and what pruning, is strong by: the same for those that know no data and those that are calibrated."""

from __future__ import annotations

from typing import ClassVar

from lightning_unlearn.functional.settings import check_between, check_whole


class InBits:
    """An attack that rounds weights to a number of bits.

    Attributes:
        bits: From 2 to 16.
    """

    family: ClassVar[str] = "quant"
    unit: ClassVar[str] = "bits"
    verb: ClassVar[str] = "round"

    bits: int

    @property
    def point(self) -> int:
        """The number of bits."""
        return self.bits


class ByFraction:
    """An attack that sets a fraction of the weights to zero.

    Attributes:
        fraction: From 0 to 1.
    """

    family: ClassVar[str] = "prune"
    unit: ClassVar[str] = "fraction"
    verb: ClassVar[str] = "prune"

    fraction: float

    @property
    def point(self) -> float:
        """The fraction."""
        return self.fraction


def check_bits(bits: int, group_size: object) -> None:
    """Refuse numbers of bits, and of inputs that share a scale, that no grid has; ``None`` is a scale per row.

    Raises:
        ValueError: If one is out of range.
    """
    check_between("bits", bits, 2, 16)
    check_whole("bits", bits)
    if group_size is not None:
        check_whole("group_size", group_size, why=", or `None` for a scale per row")
