"""Modules, strategies and data of fits in two processes."""

from __future__ import annotations

import re
from typing import Any

import torch
from _modules import SomebodysModule, examples
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from lightning_unlearn import UnlearningModule


class Sharded(SomebodysModule):
    """FSDP2, as its users write it."""

    def configure_model(self) -> None:
        mesh = self.device_mesh["data_parallel"]
        for part in (self.body[0], self.head):
            fully_shard(part, mesh=mesh)
        fully_shard(self, mesh=mesh)


class FSDP1OnCPU(FSDPStrategy):
    """Lightning and torch refuse FSDP1 without an accelerator; a subclass with a device passes both."""

    def _setup_model(self, model: torch.nn.Module) -> FullyShardedDataParallel:
        return FullyShardedDataParallel(
            module=model, device_id=torch.device("cpu"), sharding_strategy=self.sharding_strategy, **self.kwargs
        )


def fsdp2(distributed: bool) -> ModelParallelStrategy:
    return ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1, save_distributed_checkpoint=distributed)


STRATEGIES: dict[str, Any] = {
    "ddp": (SomebodysModule, lambda: DDPStrategy(find_unused_parameters=True)),
    "ddp_bucket_view": (
        SomebodysModule,
        lambda: DDPStrategy(find_unused_parameters=True, gradient_as_bucket_view=True),
    ),
    "fsdp2": (Sharded, lambda: fsdp2(False)),
    "fsdp1": (SomebodysModule, lambda: FSDP1OnCPU(auto_wrap_policy={torch.nn.Linear})),
}


class ShardedLanguageModel(UnlearningModule):
    """FSDP2, block by block, once: Lightning asks again for each part of a run."""

    def configure_model(self) -> None:
        if any(isinstance(p, DTensor) for p in self.parameters()):
            return
        mesh = self.device_mesh["data_parallel"]
        for name, part in list(self.network.named_modules()):
            if re.search(r"(layers?|h)\.\d+$", name):
                fully_shard(part, mesh=mesh)
        fully_shard(self.network, mesh=mesh)


LANGUAGE_MODELS: dict[str, Any] = {
    "ddp": (UnlearningModule, DDPStrategy),
    "fsdp2": (ShardedLanguageModel, lambda: fsdp2(False)),
}


def whole(module: torch.nn.Module, kind: str | None) -> dict[str, torch.Tensor]:
    if kind == "fsdp1":
        with FullyShardedDataParallel.summon_full_params(module._trainer.strategy.model):
            return {n.replace("_fsdp_wrapped_module.", ""): p.detach().clone() for n, p in module.named_parameters()}
    full = {n: p.full_tensor() if isinstance(p, DTensor) else p for n, p in module.named_parameters()}
    return {n: p.detach().clone() for n, p in full.items()}


def data(seed: int, n: int, exact: bool) -> TensorDataset:
    inputs, labels = examples(seed, n).tensors
    return TensorDataset(inputs.double() if exact else inputs, labels)


def loader(data: Any, rank: int, world_size: int) -> DataLoader[Any]:
    sampler = DistributedSampler(data, world_size, rank, shuffle=False)
    return DataLoader(data, batch_size=8 // world_size, sampler=sampler)


class AllUsed(SomebodysModule):
    """Lightning cannot resume sharded optimizers that have a parameter without state, nor order parameters of their own."""

    def __init__(self) -> None:
        super().__init__()
        del self.unused

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW([*self.body.parameters(), *self.head.parameters()], lr=1e-2)


class AllUsedSharded(AllUsed, Sharded):
    pass


SAVING: dict[str, Any] = {
    "single": (AllUsed, lambda: "auto"),
    "ddp": (AllUsed, DDPStrategy),
    # Of its two kinds of checkpoints the other hangs on CPUs, whatever the module.
    "fsdp1": (AllUsed, lambda: FSDP1OnCPU(auto_wrap_policy={torch.nn.Linear}, state_dict_type="sharded")),
    "fsdp2": (AllUsedSharded, lambda: fsdp2(False)),
    "fsdp2_distributed": (AllUsedSharded, lambda: fsdp2(True)),
}
