"""Seconds of each optimizer step of open-unlearning's own trainers, and the peak of memory. Runs in its environment.

    python benchmarks/peer/time_steps.py --clone open-unlearning --model runs/peer/smollm2 --rows runs/peer/rows.jsonl \\
        --objective npo

`benchmarks/step_cost.py --peer` writes the model and the rows, calls this, and puts what it prints beside our own. Their
trainer, data set of pairs and collator are imported from the clone, with the settings of their `configs/trainer`; ours are
the order of the rows, which are not shuffled, float32, a clock, and stand-ins where one of their files imports what it does
not use here (DeepSpeed). Under LoRA their trainer is given a PEFT model: they have no configuration for one.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from typing import Any

# Handler and arguments, as in their `configs/trainer` at d3d7cf9.
TRAINERS: dict[str, tuple[str, dict[str, Any]]] = {
    "graddiff": ("GradDiff", {"gamma": 1.0, "alpha": 1.0, "retain_loss_type": "NLL"}),
    "npo": ("NPO", {"beta": 0.1, "alpha": 1.0, "gamma": 1.0, "retain_loss_type": "NLL"}),
    "simnpo": ("SimNPO", {"delta": 0.0, "beta": 4.5, "alpha": 1.0, "gamma": 0.125, "retain_loss_type": "NLL"}),
    "npo_kl": ("NPO", {"beta": 0.1, "alpha": 1.0, "gamma": 1.0, "retain_loss_type": "KL"}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clone", type=Path, required=True, help="of open-unlearning")
    parser.add_argument("--model", required=True, help="a folder with weights and tokenizer")
    parser.add_argument("--rows", type=Path, required=True, help='JSONL of {"forget": row, "retain": row}, tokenised')
    parser.add_argument("--objective", choices=list(TRAINERS), required=True)
    parser.add_argument("--training", choices=["full", "lora"], default="full")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--clock", choices=["wall", "process"], default="wall")
    arguments = parser.parse_args()
    clock = time.process_time if arguments.clock == "process" else time.perf_counter
    seconds = steps(arguments, clock)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    found = {"seconds": [round(s, 3) for s in seconds], "gigabytes": round(peak, 3), "sweep": []}
    print("RESULT " + json.dumps(found))


def steps(arguments: argparse.Namespace, clock: Any) -> list[float]:
    import torch
    from torch.utils.data import SequentialSampler
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback, TrainingArguments

    sys.path.insert(0, str(arguments.clone / "src"))
    if find_spec("deepspeed") is None:
        sys.modules["deepspeed"] = module_from_spec(ModuleSpec("deepspeed", None))
    import trainer as theirs
    from data.collators import DataCollatorForSupervisedDataset
    from data.unlearn import ForgetRetainDataset

    class Clock(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.seconds: list[float] = []

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.start = clock()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.seconds.append(clock() - self.start)

    class Pairs(ForgetRetainDataset):  # type: ignore[misc]
        def __getitem__(self, index: int) -> dict[str, Any]:
            return {"forget": self.forget[index], "retain": self.retain[index]}  # and not a retain row drawn at random

    pairs = [json.loads(line) for line in arguments.rows.read_text().splitlines()]
    rows = {
        kind: [{name: torch.tensor(values) for name, values in pair[kind].items()} for pair in pairs]
        for kind in ("forget", "retain")
    }
    name, method = TRAINERS[arguments.objective]

    class InOrder(theirs.TRAINER_REGISTRY[name]):  # type: ignore[misc]
        def _get_train_sampler(self) -> SequentialSampler:
            return SequentialSampler(self.train_dataset)

    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token  # as they do
    model = AutoModelForCausalLM.from_pretrained(arguments.model, torch_dtype=torch.float32, attn_implementation="sdpa")
    if arguments.training == "lora":
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=8, target_modules="all-linear"))
    clock_of_steps = Clock()
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=arguments.batch,
            num_train_epochs=1,
            learning_rate=1e-5,
            lr_scheduler_type="constant",
            weight_decay=0.0,
            optim="adamw_torch",  # theirs, paged_adamw_32bit, needs a card
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_steps=5,
            remove_unused_columns=False,
        )
        InOrder(
            model=model,
            train_dataset=Pairs(rows["forget"], rows["retain"]),
            tokenizer=tokenizer,
            data_collator=DataCollatorForSupervisedDataset(tokenizer),
            args=settings,
            callbacks=[clock_of_steps],
            **method,
        ).train()
    return clock_of_steps.seconds


if __name__ == "__main__":
    main()
