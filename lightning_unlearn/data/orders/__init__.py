"""Which retain rows go with which forget rows, and how long an epoch is."""

from lightning_unlearn.data.orders._cyclic_order import CyclicOrder
from lightning_unlearn.data.orders._order import EpochRows, Order, RowSet
from lightning_unlearn.data.orders._random_order import RandomOrder
from lightning_unlearn.data.orders._sequential_order import SequentialOrder

__all__ = ["CyclicOrder", "EpochRows", "Order", "RandomOrder", "RowSet", "SequentialOrder"]
