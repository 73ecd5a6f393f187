"""Support for passes through a network: ranks, shards, modes, threads, a hash of weights; Lightning's two packages."""

from lightning_unlearn.runtime._checksum import checksum
from lightning_unlearn.runtime._either_package import EitherPackage, inherit_from_both_packages, put_first
from lightning_unlearn.runtime._folders import writable_folder
from lightning_unlearn.runtime._modes import eval_mode, eval_without_grad
from lightning_unlearn.runtime._packages import in_each_package, lightning_class
from lightning_unlearn.runtime._ranks import data_share, on_every_rank
from lightning_unlearn.runtime._sharding import local, reshard
from lightning_unlearn.runtime._threads import map_in_threads

__all__ = [
    "EitherPackage",
    "checksum",
    "data_share",
    "eval_mode",
    "eval_without_grad",
    "in_each_package",
    "inherit_from_both_packages",
    "lightning_class",
    "local",
    "map_in_threads",
    "on_every_rank",
    "put_first",
    "reshard",
    "writable_folder",
]
