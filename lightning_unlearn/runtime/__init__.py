"""Support for passes through a network: ranks, shards, modes, threads, a hash of weights."""

from lightning_unlearn.runtime._checksum import checksum, tensor_checksum
from lightning_unlearn.runtime._folders import writable_folder
from lightning_unlearn.runtime._modes import eval_mode, eval_without_grad
from lightning_unlearn.runtime._ranks import data_share, on_every_rank, own_rank
from lightning_unlearn.runtime._sharding import local, reshard
from lightning_unlearn.runtime._threads import map_in_threads

__all__ = [
    "checksum",
    "data_share",
    "eval_mode",
    "eval_without_grad",
    "local",
    "map_in_threads",
    "on_every_rank",
    "own_rank",
    "reshard",
    "tensor_checksum",
    "writable_folder",
]
