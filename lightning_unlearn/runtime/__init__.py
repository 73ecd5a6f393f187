"""Support for passes and results: ranks that agree, shards, modes, interrupts, hashes, files, both Lightning packages."""

from lightning_unlearn.runtime._agreement import Agreement, Ended
from lightning_unlearn.runtime._autocast import autocast_of_now, without_autocast
from lightning_unlearn.runtime._buffers import remember_buffers
from lightning_unlearn.runtime._checksum import checksum, tensor_checksum
from lightning_unlearn.runtime._early_end import ended_by, exit_as_terminated
from lightning_unlearn.runtime._either_package import EitherPackage, inherit_from_both_packages, put_first
from lightning_unlearn.runtime._files import PRIVATE, remove_leftovers, temporary_name, written_whole
from lightning_unlearn.runtime._folders import writable_folder
from lightning_unlearn.runtime._fused import can_be_fused
from lightning_unlearn.runtime._in_words import in_words
from lightning_unlearn.runtime._interrupts import interruptible, uninterrupted
from lightning_unlearn.runtime._kept_tensors import KeptTensors
from lightning_unlearn.runtime._logging import without_logging
from lightning_unlearn.runtime._main_memory import in_main_memory
from lightning_unlearn.runtime._misfit import Misfit
from lightning_unlearn.runtime._modes import eval_mode, eval_without_grad
from lightning_unlearn.runtime._own_containers import in_own_containers
from lightning_unlearn.runtime._packages import in_each_package, lightning_class
from lightning_unlearn.runtime._progress import (
    EachMinute,
    Progress,
    ProgressBar,
    ProgressLines,
    in_minutes,
    someone_looks_on,
)
from lightning_unlearn.runtime._python_state import PythonState
from lightning_unlearn.runtime._random_states import (
    hash_of,
    random_states_now,
    remember_random_states,
    seed_random_states,
    seeded,
)
from lightning_unlearn.runtime._ranks import data_share, on_every_rank, own_rank
from lightning_unlearn.runtime._sharding import drop_copies, local
from lightning_unlearn.runtime._termination import termination_held
from lightning_unlearn.runtime._threads import map_in_threads
from lightning_unlearn.runtime._unnoticed import is_sharded, unnoticed
from lightning_unlearn.runtime._weight_noise import WeightNoise, clean_weights, settle_noise

__all__ = [
    "Agreement",
    "EachMinute",
    "EitherPackage",
    "Ended",
    "KeptTensors",
    "Misfit",
    "PRIVATE",
    "Progress",
    "ProgressBar",
    "ProgressLines",
    "PythonState",
    "WeightNoise",
    "autocast_of_now",
    "can_be_fused",
    "checksum",
    "clean_weights",
    "data_share",
    "ended_by",
    "eval_mode",
    "eval_without_grad",
    "exit_as_terminated",
    "hash_of",
    "in_each_package",
    "in_main_memory",
    "in_minutes",
    "in_words",
    "in_own_containers",
    "inherit_from_both_packages",
    "interruptible",
    "is_sharded",
    "lightning_class",
    "local",
    "map_in_threads",
    "on_every_rank",
    "own_rank",
    "put_first",
    "random_states_now",
    "remember_buffers",
    "remember_random_states",
    "remove_leftovers",
    "drop_copies",
    "seed_random_states",
    "seeded",
    "settle_noise",
    "someone_looks_on",
    "temporary_name",
    "tensor_checksum",
    "termination_held",
    "uninterrupted",
    "unnoticed",
    "without_autocast",
    "without_logging",
    "writable_folder",
    "written_whole",
]
