from __future__ import annotations

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, Strategy
from typing_extensions import override


class JoinedProcesses(ClusterEnvironment):
    """The processes of torch's default group, which somebody else has started: nothing is launched, and none is ended.

    Example:
        >>> JoinedProcesses().world_size(), JoinedProcesses().global_rank()
        (1, 0)
    """

    @property
    @override
    def creates_processes_externally(self) -> bool:
        return True

    @property
    @override
    def main_address(self) -> str:
        return "127.0.0.1"  # asked for by nobody: the group exists

    @property
    @override
    def main_port(self) -> int:
        return 0

    @staticmethod
    @override
    def detect() -> bool:
        return _is_running()

    @override
    def world_size(self) -> int:
        return torch.distributed.get_world_size() if _is_running() else 1

    @override
    def set_world_size(self, size: int) -> None:
        """The group knows."""

    @override
    def global_rank(self) -> int:
        return torch.distributed.get_rank() if _is_running() else 0

    @override
    def set_global_rank(self, rank: int) -> None:
        """The group knows."""

    @override
    def local_rank(self) -> int:
        return self.global_rank()  # all are counted as of one node: `joined_strategy` lists one device for each

    @override
    def node_rank(self) -> int:
        return 0


def is_joined(trainer: pl.Trainer) -> bool:
    """Whether the trainer joins a loop of somebody else's, which by itself says when gradients are dropped."""
    return isinstance(trainer._accelerator_connector.cluster_environment, JoinedProcesses)


def joined_strategy(module: pl.LightningModule, device: torch.device) -> Strategy:
    """The strategy of a trainer that joins a loop of somebody else's: one process, or replicas that their loop averages.

    Args:
        module: What is trained. It is not wrapped, moved, or averaged: their loop does that.
        device: Where its weights are, in this process.
    """
    processes = JoinedProcesses()
    strategy: Strategy
    if processes.world_size() == 1:
        strategy = SingleDeviceStrategy(device)
    else:
        strategy = DDPStrategy(parallel_devices=[device] * processes.world_size(), cluster_environment=processes)
    strategy.connect(module)
    return strategy


def _is_running() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
