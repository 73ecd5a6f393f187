"""Support for passes and results: ranks, shards, modes, threads, a hash of weights, files that are written whole."""

from lightning_unlearn.runtime._checksum import checksum, tensor_checksum
from lightning_unlearn.runtime._files import PRIVATE, remove_leftovers, temporary_name, written_whole
from lightning_unlearn.runtime._folders import writable_folder
from lightning_unlearn.runtime._kept_tensors import KeptTensors
from lightning_unlearn.runtime._logging import without_logging
from lightning_unlearn.runtime._modes import eval_mode, eval_without_grad
from lightning_unlearn.runtime._python_state import PythonState
from lightning_unlearn.runtime._random_states import hash_of, remember_random_states, seed_random_states, seeded
from lightning_unlearn.runtime._ranks import data_share, on_every_rank, own_rank
from lightning_unlearn.runtime._sharding import local, reshard
from lightning_unlearn.runtime._threads import map_in_threads

__all__ = [
    "KeptTensors",
    "PythonState",
    "PRIVATE",
    "checksum",
    "data_share",
    "eval_mode",
    "eval_without_grad",
    "hash_of",
    "local",
    "map_in_threads",
    "on_every_rank",
    "remember_random_states",
    "reshard",
    "seeded",
    "without_logging",
    "seed_random_states",
    "own_rank",
    "tensor_checksum",
    "remove_leftovers",
    "temporary_name",
    "writable_folder",
    "written_whole",
]
