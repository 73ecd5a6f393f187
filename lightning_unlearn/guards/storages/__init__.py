"""Formats in which protected gradients are kept."""

from lightning_unlearn.guards.storages._base import Storage
from lightning_unlearn.guards.storages._bfloat16 import BFloat16
from lightning_unlearn.guards.storages._float32 import Float32
from lightning_unlearn.guards.storages._int8 import Int8
from lightning_unlearn.guards.storages._main_memory import MainMemory
from lightning_unlearn.guards.storages._matrix_free import MatrixFree

__all__ = ["BFloat16", "Float32", "Int8", "MainMemory", "MatrixFree", "Storage"]
