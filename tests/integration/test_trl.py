"""TRL's `SFTTrainer` forgets as a loop by hand does, and keeps its metrics, its adapters and its checkpoints.

`dev` does not bring TRL; `pip install --no-deps trl` is all that it lacks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from _ranks import run_ranks
from peft import LoraConfig
from torch import nn
from torch.testing import assert_close
from torch.utils.data import DataLoader

from lightning_unlearn import (
    NPO,
    Bounded,
    GradientAscent,
    Quantize,
    RecoveryCheck,
    StepGuard,
    TinyCausalLM,
    Unlearn,
)
from lightning_unlearn.data import FileRecords, ForgetStream
from lightning_unlearn.loops import UnlearnTrainerCallback
from lightning_unlearn.models import load_tokenizer

trl = pytest.importorskip("trl", reason="`dev` does not bring TRL")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of packages that are not ours
]
RATE, BOUND, SIZE = 3e-2, 9.0, 2


def people(group: str, count: int) -> Any:
    """Prompts and completions: TRL trains on the completion alone."""
    from datasets import Dataset

    records = FileRecords("bundled:people", where={"group": [group]})
    rows = [records.parse(record) for record in records.selected[:count]]
    return Dataset.from_list([{"prompt": row.question, "completion": f" {row.answer}"} for row in rows])


def network() -> nn.Module:
    return TinyCausalLM(hidden_size=32, num_hidden_layers=1)


def sft(model: nn.Module, callbacks: Sequence[Any] | None = None, peft_config: Any = None, **settings: Any) -> Any:
    defaults: dict[str, Any] = {
        "output_dir": "sft",
        "per_device_train_batch_size": SIZE,
        "learning_rate": RATE,
        "optim": "sgd",  # Adam's step is as large where a gradient is but rounding
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "num_train_epochs": 1,
        "train_sampling_strategy": "sequential",
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    trainer = trl.SFTTrainer(
        model,
        trl.SFTConfig(**{**defaults, **settings}),
        train_dataset=people("retain", 8),
        eval_dataset={"forget": people("forget", 6)},
        processing_class=load_tokenizer("bundled"),
        peft_config=peft_config,
    )
    if callbacks is not None:
        forget = trainer.eval_dataset["forget"]
        trainer.add_callback(UnlearnTrainerCallback(trainer, callbacks, forget=forget))
    return trainer


def bounded() -> Unlearn:
    return Unlearn(Bounded(GradientAscent(), bound=BOUND), seed=5)


def trained(callbacks: Sequence[Any] | None, **settings: Any) -> Any:
    trainer = sft(network(), callbacks, **settings)
    trainer.train()
    return trainer


def far(one: nn.Module, other: nn.Module) -> float:
    return max(float((a - b).detach().abs().max()) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def lines(trainer: Any) -> list[dict[str, float]]:
    """What TRL logs itself, but for the clock."""
    ours, clock = ("unlearn/", "guard/", "recovery/"), ("runtime", "per_second")
    found = [{k: v for k, v in line.items() if not k.startswith(ours)} for line in trainer.state.log_history]
    return [{k: v for k, v in line.items() if not k.endswith(clock)} for line in found]


def by_hand(accumulate: int) -> nn.Module:
    """From TRL's batches alone: the retain loss is the mean over all tokens of a step, the forget loss over its batches."""
    trainer, model = sft(network()), network()
    retain, forget = (
        DataLoader(rows, SIZE, collate_fn=trainer.data_collator)
        for rows in (
            trainer._remove_unused_columns(trainer.train_dataset),
            trainer._remove_unused_columns(trainer.eval_dataset["forget"]),
        )
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    kept, gone = list(retain), ForgetStream(forget, seed=5)
    for start in range(0, len(kept), accumulate):
        step = kept[start : start + accumulate]
        tokens = [int((batch["labels"][:, 1:] != -100).sum()) for batch in step]
        for batch, count in zip(step, tokens, strict=True):
            loss = model(**batch).loss * count / sum(tokens)
            (loss + torch.relu(BOUND - model(**next(gone)).loss) / len(step)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


@pytest.mark.parametrize("accumulate", [1, 2])
def test_same_weights_as_a_hand_written_loop(accumulate: int) -> None:
    found = trained([bounded()], gradient_accumulation_steps=accumulate).model
    assert far(found, network()) > 1e-3
    assert far(found, trained(None, gradient_accumulation_steps=accumulate).model) > 1e-3  # forgetting did something
    for one, other in zip(found.parameters(), by_hand(accumulate).parameters(), strict=True):
        assert_close(one, other, rtol=0, atol=2e-6)


def test_its_metrics_are_of_what_it_trains_on_and_ours_stand_beside_them() -> None:
    check = RecoveryCheck({"int4": Quantize(bits=4)}, every_n_steps=2)
    alone, forgetting = trained(None), trained([bounded(), StepGuard(), check])
    mine = [line["num_tokens"] for line in lines(forgetting) if "num_tokens" in line]
    assert len(mine) == 4
    assert mine == [line["num_tokens"] for line in lines(alone) if "num_tokens" in line]
    first, of_first = lines(forgetting)[0], lines(alone)[0]
    assert {name: first[name] for name in ("loss", "entropy", "mean_token_accuracy")} == {
        name: of_first[name] for name in ("loss", "entropy", "mean_token_accuracy")
    }
    last = forgetting.state.log_history[3]
    assert {"entropy", "unlearn/forget", "unlearn/cosine", "guard/kept", "recovery/int4/token_nll"} <= last.keys()
    assert last["unlearn/retain"] == pytest.approx(last["loss"], rel=1e-5)


def test_checks_leave_the_fit_bit_for_bit_as_it_is() -> None:
    check = RecoveryCheck({"int4": Quantize(bits=4)}, every_n_steps=2)
    looked, unlooked = trained([bounded(), check]), trained([bounded()])
    assert far(looked.model, unlooked.model) == 0
    assert lines(looked) == lines(unlooked)


def test_only_its_adapter_moves_and_is_what_the_original_lacks() -> None:
    adapter = LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
    trainer = sft(network(), [Unlearn(NPO(beta=0.5), weight=5.0)], peft_config=adapter)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    moved = {name for name, p in trainer.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved
    assert all("lora_" in name for name in moved)
    losses = [line["unlearn/forget"] for line in trainer.state.log_history if "unlearn/forget" in line]
    assert losses[0] == pytest.approx(2 / 0.5 * math.log(2), abs=1e-4)  # nothing is forgotten yet
    assert losses[-1] != losses[0]


def test_a_loss_of_another_kind_is_what_is_forgotten() -> None:
    """DFT weighs each token by its probability: no readout gives that loss, so TRL's own is taken."""
    settings = {"loss_type": "dft", "optim": "adamw_torch"}  # its gradients are small, too
    found = trained([bounded()], **settings)
    assert far(found.model, trained(None, **settings).model) > 1e-3
    first, second = (line for line in found.state.log_history if line.get("step") in (1, 2) and "loss" in line)
    assert 0 < first["loss"] < 1  # of random weights, far below the entropy
    assert BOUND - 1 < first["unlearn/forget"] < BOUND
    assert second["num_tokens"] == lines(trained(None))[1]["num_tokens"]


def test_resuming_gives_the_same_weights() -> None:
    settings = {"num_train_epochs": 2, "save_strategy": "steps", "save_steps": 3, "optim": "adamw_torch"}
    whole = trained([Unlearn(NPO(beta=0.5)), StepGuard()], **settings)
    resumed = sft(network(), [Unlearn(NPO(beta=0.5)), StepGuard()], **settings)
    resumed.train(resume_from_checkpoint="sft/checkpoint-3")
    assert resumed.state.global_step == whole.state.global_step == 8
    assert far(resumed.model, whole.model) == 0


def in_a_process(rank: int, world_size: int) -> list[torch.Tensor]:
    from accelerate.state import AcceleratorState, PartialState

    AcceleratorState._reset_state(reset_partial_state=True)  # of the process that this one was forked from
    PartialState._reset_state()
    settings = {"per_device_train_batch_size": SIZE // world_size, "gradient_accumulation_steps": 2}
    backend = "gloo" if world_size > 1 else None
    callbacks = [Unlearn(NPO(beta=0.5)), StepGuard(), RecoveryCheck({"int4": Quantize(bits=4)}, every_n_steps=2)]
    return [p.detach() for p in trained(callbacks, ddp_backend=backend, **settings).model.parameters()]


def test_two_processes_train_as_one() -> None:
    """Both see half of each batch. TRL weighs what must stay by tokens over all of them, NPO what must go by answers."""
    expected = in_a_process(0, 1)
    for weights in run_ranks(in_a_process):
        for one, other in zip(weights, expected, strict=True):
            assert_close(one, other, rtol=0, atol=2e-6)
