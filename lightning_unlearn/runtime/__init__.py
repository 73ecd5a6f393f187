"""Support for passes and results: ranks, shards, modes, threads, a hash of weights, files that are written whole."""

from lightning_unlearn.runtime._checksum import checksum
from lightning_unlearn.runtime._files import PRIVATE, remove_leftovers, temporary_name, written_whole
from lightning_unlearn.runtime._folders import writable_folder
from lightning_unlearn.runtime._modes import eval_mode, eval_without_grad
from lightning_unlearn.runtime._ranks import data_share, on_every_rank
from lightning_unlearn.runtime._sharding import local, reshard
from lightning_unlearn.runtime._threads import map_in_threads

__all__ = [
    "PRIVATE",
    "checksum",
    "data_share",
    "eval_mode",
    "eval_without_grad",
    "local",
    "map_in_threads",
    "on_every_rank",
    "remove_leftovers",
    "reshard",
    "temporary_name",
    "writable_folder",
    "written_whole",
]
