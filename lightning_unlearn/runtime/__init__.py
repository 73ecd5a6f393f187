"""Support for passes through a network: ranks and their agreement, shards, modes, threads, interrupts, a hash of weights."""

from lightning_unlearn.runtime._agreement import Agreement, Ended
from lightning_unlearn.runtime._checksum import checksum
from lightning_unlearn.runtime._early_end import ended_by, exit_as_terminated
from lightning_unlearn.runtime._folders import writable_folder
from lightning_unlearn.runtime._interrupts import interruptible, uninterrupted
from lightning_unlearn.runtime._modes import eval_mode, eval_without_grad
from lightning_unlearn.runtime._ranks import data_share, on_every_rank
from lightning_unlearn.runtime._sharding import local, reshard
from lightning_unlearn.runtime._termination import termination_held
from lightning_unlearn.runtime._threads import map_in_threads

__all__ = [
    "Agreement",
    "Ended",
    "checksum",
    "data_share",
    "ended_by",
    "eval_mode",
    "eval_without_grad",
    "exit_as_terminated",
    "interruptible",
    "local",
    "map_in_threads",
    "on_every_rank",
    "reshard",
    "termination_held",
    "uninterrupted",
    "writable_folder",
]
