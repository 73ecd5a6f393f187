"""Which retain rows go with which forget rows, and how long an epoch is."""

from lightning_unlearn.data.orders._balanced_order import BalancedOrder
from lightning_unlearn.data.orders._cyclic_order import CyclicOrder
from lightning_unlearn.data.orders._difficulty_order import AnswerLength, Difficulty, DifficultyOrder, GivenScores
from lightning_unlearn.data.orders._modular_order import ModularOrder
from lightning_unlearn.data.orders._neighbourhood import ClassGraph, MostAlike, Neighbourhood, SameEntity
from lightning_unlearn.data.orders._neighbours_order import NeighboursOrder
from lightning_unlearn.data.orders._order import EpochRows, Order, RowSet
from lightning_unlearn.data.orders._random_order import RandomOrder
from lightning_unlearn.data.orders._recency_order import Exponential, ForgettingLaw, PowerLaw, RecencyOrder
from lightning_unlearn.data.orders._reoccurring_order import ReoccurringOrder
from lightning_unlearn.data.orders._sequential_order import SequentialOrder
from lightning_unlearn.data.orders._spaced_order import SpacedOrder

__all__ = [
    "AnswerLength",
    "BalancedOrder",
    "ClassGraph",
    "CyclicOrder",
    "Difficulty",
    "DifficultyOrder",
    "EpochRows",
    "Exponential",
    "ForgettingLaw",
    "GivenScores",
    "ModularOrder",
    "MostAlike",
    "Neighbourhood",
    "NeighboursOrder",
    "Order",
    "PowerLaw",
    "RandomOrder",
    "RecencyOrder",
    "ReoccurringOrder",
    "RowSet",
    "SameEntity",
    "SequentialOrder",
    "SpacedOrder",
]
