"""Several processes: nothing changes but the trainer.

torchrun --nproc-per-node 2 examples/ddp.py --devices 2                            # on CPUs
torchrun --nproc-per-node 8 examples/ddp.py --devices 8 --accelerator gpu
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import lightning.pytorch as pl

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


def people(group: str) -> QuestionAnswerData:
    """Questions and answers about people whom nobody knows. The batch size is that of each process."""
    records = FileRecords("bundled:people", entity="entity", where={"group": [group]})
    return QuestionAnswerData(records, Encoding("bundled"), LoaderSettings(batch_size=6))


def main(arguments: Sequence[str] | None = None) -> pl.Trainer:
    """Forget in as many processes as there are devices."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--max-steps", type=int, default=20)
    parser.add_argument("--folder", default="runs/ddp")
    given = parser.parse_args(arguments)

    pl.seed_everything(0)
    trainer = pl.Trainer(
        accelerator=given.accelerator,
        devices=given.devices,
        num_nodes=given.nodes,
        strategy="ddp",
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
    # An order of its own for each epoch, in which every process has its share of both sets.
    data = ForgetRetainData(retain=people("retain"), forget=people("forget"), order=RandomOrder())
    trainer.fit(UnlearningModule(TinyCausalLM()), datamodule=data)
    return trainer


if __name__ == "__main__":
    main()
