"""Sharded weights, FSDP2: you shard the network in `configure_model`, as in any such fit.

torchrun --nproc-per-node 2 examples/fsdp2.py --devices 2                          # on CPUs
torchrun --nproc-per-node 8 examples/fsdp2.py --devices 8 --accelerator gpu
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import lightning.pytorch as pl
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from lightning_unlearn import (
    NPO,
    Encoding,
    FileRecords,
    ForgetRetainData,
    LoaderSettings,
    Quantize,
    QuestionAnswerData,
    RandomOrder,
    RecoveryCheck,
    StepGuard,
    TinyCausalLM,
    Unlearn,
    UnlearningModule,
    WriteReport,
)


class Sharded(UnlearningModule):
    """Every block sharded over the processes, and what is around them."""

    def configure_model(self) -> None:
        """Called once the processes know each other, and again when a second loop begins."""
        if any(isinstance(p, DTensor) for p in self.network.parameters()):
            return
        mesh = self.device_mesh["data_parallel"]
        for block in self.network.model.layers:
            fully_shard(block, mesh=mesh)
        fully_shard(self.network, mesh=mesh)


def people(group: str) -> QuestionAnswerData:
    """Questions and answers about people whom nobody knows. The batch size is that of each process."""
    records = FileRecords("bundled:people", entity="entity", where={"group": [group]})
    return QuestionAnswerData(records, Encoding("bundled"), LoaderSettings(batch_size=6))


def main(arguments: Sequence[str] | None = None) -> pl.Trainer:
    """Forget with the weights in as many shards as there are devices."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--max-steps", type=int, default=20)
    parser.add_argument("--folder", default="runs/fsdp2")
    given = parser.parse_args(arguments)

    pl.seed_everything(0)
    trainer = pl.Trainer(
        accelerator=given.accelerator,
        devices=given.devices,
        strategy=ModelParallelStrategy(data_parallel_size=given.devices, tensor_parallel_size=1),
        max_steps=given.max_steps,
        logger=False,
        enable_checkpointing=False,
        callbacks=[
            Unlearn(NPO(beta=0.1)),
            StepGuard(),
            RecoveryCheck({"int4": Quantize(bits=4)}, every_n_epochs=0),
            WriteReport(given.folder),
        ],
    )
    data = ForgetRetainData(retain=people("retain"), forget=people("forget"), order=RandomOrder())
    trainer.fit(Sharded(TinyCausalLM()), datamodule=data)
    return trainer


if __name__ == "__main__":
    main()
