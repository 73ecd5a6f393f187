"""Forgetting in a Hugging Face `Trainer`: one line more than the training that you have.

    python examples/hugging_face_trainer.py

TRL's trainers are `Trainer`s, too.
"""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from lightning_unlearn import (
    NPO,
    Encoding,
    FileRecords,
    LoaderSettings,
    Quantize,
    QuestionAnswerData,
    RecoveryCheck,
    StepGuard,
    TinyCausalLM,
    Unlearn,
    WriteReport,
)
from lightning_unlearn.loops import UnlearnTrainerCallback


def people(group: str) -> DataLoader[Any]:
    """Questions and answers about people whom nobody knows, as tokens."""
    records = FileRecords("bundled:people", where={"group": [group]})
    data = QuestionAnswerData(records, Encoding("bundled"), LoaderSettings(batch_size=6))
    data.setup("fit")
    return data.train_dataloader()


def main(steps: int = 20, folder: str = "runs/hugging_face_trainer") -> Trainer:
    """Forget for some steps, attack the rounded weights, report.

    Args:
        steps: How many optimizer steps.
        folder: Where checkpoints and the report go.
    """
    retain, forget = people("retain"), people("forget")
    arguments = TrainingArguments(
        folder,
        per_device_train_batch_size=6,
        gradient_accumulation_steps=2,
        learning_rate=5e-4,
        max_steps=steps,
        logging_steps=5,
        save_strategy="no",
        report_to=[],
        remove_unused_columns=False,
        use_cpu=True,
    )
    trainer = Trainer(TinyCausalLM(), arguments, train_dataset=retain.dataset, data_collator=retain.collate_fn)

    callbacks = [
        Unlearn(NPO(beta=0.1)),
        StepGuard(),
        RecoveryCheck({"int4": Quantize(bits=4)}, every_n_epochs=0),
        WriteReport(folder),
    ]
    trainer.add_callback(UnlearnTrainerCallback(trainer, callbacks, forget=forget.dataset))  # the one line
    trainer.train()
    return trainer


if __name__ == "__main__":
    main()
