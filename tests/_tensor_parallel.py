"""Modules and a strategy whose two processes hold parts of each matrix."""

from __future__ import annotations

from typing import Any

import torch
from _modules import SomebodysModule
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module


class Plain(SomebodysModule):
    """Torch cannot step whole and sharded parameters in one call for all of them."""

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-2, weight_decay=0.1, foreach=False)


class TensorParallel(Plain):
    def configure_model(self) -> None:
        mesh = self.device_mesh["tensor_parallel"]
        parallelize_module(self.body[0], mesh, ColwiseParallel(output_layouts=Replicate()))
        parallelize_module(self.head, mesh, RowwiseParallel(input_layouts=Replicate()))


def strategy() -> ModelParallelStrategy:
    return ModelParallelStrategy(data_parallel_size=1, tensor_parallel_size=2, save_distributed_checkpoint=False)
