"""A `transformers.Trainer` forgets as a Lightning fit does, and keeps everything of its own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from _modules import quiet
from _other_loops import FORGET, RETAIN, adamw, batches, bounded, by_hand, hugging_face, network, with_lightning
from _ranks import run_ranks
from torch import nn
from torch.testing import assert_close
from transformers import Trainer

from lightning_unlearn import (
    NPO,
    BilevelUnlearn,
    GroupSparse,
    HalfSpace,
    LookaheadRate,
    NeuralVariability,
    Noise,
    PenalizedUnlearn,
    Quantize,
    RecoveryCheck,
    RowMask,
    SignGate,
    StepGuard,
    SubspaceGuard,
    TrainOnly,
    Unlearn,
    WriteReport,
)
from lightning_unlearn.callbacks import FinetuneFirst
from lightning_unlearn.data import ForgetStream
from lightning_unlearn.guards import InputSubspace, NoChange
from lightning_unlearn.loops import UnlearnTrainerCallback

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*", "ignore::FutureWarning")


def assert_same_weights(a: nn.Module, b: nn.Module, atol: float = 1e-6) -> None:
    for x, y in zip(a.parameters(), b.parameters(), strict=True):
        assert_close(x, y, rtol=0, atol=atol)


@pytest.mark.parametrize(("accumulate", "clip"), [(1, None), (3, None), (1, 0.05), (2, 0.05)])
def test_same_weights_as_a_hand_written_loop(accumulate: int, clip: float | None) -> None:
    stream = ForgetStream(batches(FORGET), seed=5)
    expected, model = network(), network()
    by_hand(expected, [next(stream) for _ in range(10)], accumulate=accumulate, clip=clip, epochs=2)
    settings = {"gradient_accumulation_steps": accumulate, "max_grad_norm": clip or 0.0, "num_train_epochs": 2}
    hugging_face(model, [Unlearn(bounded(), seed=5)], **settings).train()
    assert_same_weights(model, expected)


def test_forgetting_moves_the_weights_at_all() -> None:
    model, alone = network(), network()
    hugging_face(model, [Unlearn(bounded())]).train()
    hugging_face(alone).train()
    assert max((a - b).abs().max().item() for a, b in zip(model.parameters(), alone.parameters(), strict=True)) > 1e-3


WAYS: dict[str, Any] = {
    "half space": lambda: [Unlearn(bounded(), projector=HalfSpace())],
    "reference": lambda: [Unlearn(NPO(beta=0.5))],
    "guard": lambda: [Unlearn(bounded()), StepGuard(NoChange())],
    "own optimizer": lambda: [Unlearn(bounded(), optimizer=lambda params: torch.optim.SGD(params, lr=1e-2))],
    "transform": lambda: [Unlearn(bounded(), transforms=[RowMask(share=0.3)])],
    "under": lambda: [Unlearn(bounded(), under={"noise": Noise(sigma=0.1)})],
}


OTHERS: dict[str, Any] = {
    "subspace": lambda: [Unlearn(bounded()), SubspaceGuard(InputSubspace(0.8), batches=2)],
    "some layers": lambda: [Unlearn(bounded()), TrainOnly(["*mlp*"])],
    "sign": lambda: [Unlearn(bounded()), SignGate(average=0.9)],
    "variability": lambda: [Unlearn(bounded()), NeuralVariability(0.05), StepGuard()],
    "sparse": lambda: [Unlearn(bounded()), GroupSparse(alpha=0.5)],
    "penalty": lambda: [PenalizedUnlearn(bounded())],
    "bilevel": lambda: [BilevelUnlearn(bounded(), inner_steps=2, outer_steps=1)],
}


@pytest.mark.filterwarnings("ignore:All trained parameters should be protected")
@pytest.mark.parametrize("way", [*WAYS, *(pytest.param(way, marks=pytest.mark.slow) for way in OTHERS)])
def test_same_weights_as_a_lightning_fit(way: str) -> None:
    model, expected = network(), network()
    make = (WAYS | OTHERS)[way]
    accumulate = 5 if way in WAYS else 1
    with_lightning(expected, make(), accumulate_grad_batches=accumulate, gradient_clip_val=0.1)
    settings = {"gradient_accumulation_steps": accumulate, "max_grad_norm": 0.1}
    # Noise is drawn by the number of a parameter in the optimizer, and the trainer's own has two groups.
    optimizer = adamw(model) if way in OTHERS else None
    hugging_face(model, make(), optimizer=optimizer, **settings).train()
    assert_same_weights(model, expected)


def test_same_weights_as_a_lightning_fit_in_bf16() -> None:
    model, expected = network(torch.float32), network(torch.float32)
    with_lightning(expected, WAYS["guard"](), precision="bf16-mixed")
    hugging_face(model, WAYS["guard"](), bf16=True).train()
    assert_same_weights(model, expected)


def test_activation_checkpointing_changes_nothing() -> None:
    model, expected = network(), network()
    hugging_face(expected, WAYS["guard"]()).train()
    hugging_face(model, WAYS["guard"](), activation_checkpointing=True).train()
    assert_same_weights(model, expected, atol=1e-9)


def test_an_adapter_is_all_that_moves() -> None:
    model, expected = network(lora=True), network(lora=True)
    with_lightning(expected, WAYS["reference"]())
    hugging_face(model, WAYS["reference"]()).train()
    assert_same_weights(model, expected)


@pytest.mark.parametrize("way", ["reference", "guard", "own optimizer"])
def test_resuming_gives_the_same_weights(way: str) -> None:
    settings = {"num_train_epochs": 2, "save_strategy": "steps", "save_steps": 3, "max_grad_norm": 0.1}
    whole = network(torch.float32)
    hugging_face(whole, WAYS[way](), **settings).train()
    resumed = network(torch.float32)  # the original, into which the checkpoint is loaded
    unlearn = WAYS[way]()
    trainer = hugging_face(resumed, unlearn, **settings)
    trainer.train(resume_from_checkpoint="hugging_face/checkpoint-6")
    assert trainer.state.global_step == 10
    assert_same_weights(resumed, whole, atol=0)


def test_a_checkpoint_without_ours_is_resumed_with_a_warning() -> None:
    hugging_face(network(torch.float32), save_strategy="steps", save_steps=2).train()
    trainer = hugging_face(network(torch.float32), [Unlearn(NPO())])
    with pytest.warns(UserWarning, match=r"Found none in `hugging_face/checkpoint-4`"):
        trainer.train(resume_from_checkpoint="hugging_face/checkpoint-4")


class Randomised(Trainer):
    """Its loss draws random numbers, as dropout does."""

    def compute_loss(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        return super().compute_loss(model, inputs, *args, **kwargs) * (1 + 0.1 * torch.rand(()))


def of_the_trainer(trainer: Trainer) -> list[dict[str, float]]:
    """What it logs itself, but for the clock."""
    clock = ("runtime", "per_second")
    ours = ("recovery/", "unlearn/", "guard/")
    return [
        {k: v for k, v in line.items() if not k.endswith(clock) and not k.startswith(ours)}
        for line in trainer.state.log_history
    ]


def test_checks_leave_the_fit_bit_for_bit_as_it_is() -> None:
    found = []
    for checks in ([], [RecoveryCheck({"int4": Quantize(bits=4)}, every_n_steps=2), WriteReport("report")]):
        torch.manual_seed(3)
        model = network(torch.float32)
        callbacks = [Unlearn(bounded()), StepGuard(), *checks]
        trainer = hugging_face(model, callbacks, kind=Randomised, gradient_accumulation_steps=2, num_train_epochs=2)
        trainer.train()
        found.append((list(model.parameters()), torch.get_rng_state(), of_the_trainer(trainer)))
    (weights, draws, lines), (checked, draws_checked, lines_checked) = found
    assert all(torch.equal(a, b) for a, b in zip(weights, checked, strict=True))
    assert torch.equal(draws, draws_checked)
    assert lines == lines_checked


def test_what_callbacks_log_is_in_the_line_of_the_trainer() -> None:
    check = RecoveryCheck({"int4": Quantize(bits=4)}, every_n_steps=2)
    trainer = hugging_face(network(), [Unlearn(bounded()), StepGuard(), check])
    trainer.train()
    lines = {line["step"]: line for line in trainer.state.log_history if "loss" in line}
    assert {"unlearn/forget", "unlearn/cosine", "guard/kept"} <= lines[1].keys()
    assert "recovery/int4/token_nll" in lines[2]
    assert lines[1]["unlearn/retain"] == pytest.approx(lines[1]["loss"])
    assert [o.step for o in check.observations if o.subject == "unlearned"][-1] == 5


@pytest.mark.parametrize("fails", [False, True])
def test_afterwards_nothing_of_ours_is_left(fails: bool) -> None:
    class Failing(Trainer):
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            if fails and self.state.global_step == 2:
                raise RuntimeError("out of memory")
            return super().compute_loss(*args, **kwargs)

    trainer = hugging_face(network(), [Unlearn(bounded()), StepGuard()], kind=Failing)
    if fails:
        with pytest.raises(RuntimeError, match="out of memory"):
            trainer.train()
    else:
        trainer.train()
    assert not {"training_step", "log"} & vars(trainer).keys()
    assert "backward" not in vars(trainer.accelerator)
    assert not trainer.optimizer.optimizer._optimizer_step_post_hooks
    assert not any(m._load_state_dict_pre_hooks or m._forward_hooks for m in trainer.model.modules())


def test_a_second_training_starts_anew() -> None:
    model, unlearn = network(), Unlearn(NPO())
    trainer = hugging_face(model, [unlearn], max_steps=2)
    trainer.train()
    trainer.train()
    assert unlearn._steps == {"merged": 2, "taken": 2}


def test_a_callback_that_asks_to_stop_is_heard() -> None:
    class Enough(StepGuard):
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            super().on_train_batch_end(trainer, *args)
            trainer.should_stop = trainer.global_step == 3

    trainer = hugging_face(network(), [Unlearn(bounded()), Enough()])
    trainer.train()
    assert trainer.state.global_step == 3


def test_a_loss_of_ones_own_is_what_is_forgotten() -> None:
    """And what the trainer counts in its `compute_loss` does not move with the extra passes."""

    class Counting(Trainer):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.seen, self.count = {"train": []}, 0

        def compute_loss(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            self.count += 1
            self.seen["train"].append(self.count)
            logits = model(input_ids=inputs["input_ids"]).logits
            return (logits - 1).square().mean()

    trainer = hugging_face(network(), [Unlearn(bounded())], kind=Counting)
    trainer.train()
    assert trainer.seen == {"train": [1, 2, 3, 4, 5]}


PROBLEMS: dict[str, tuple[Any, str]] = {
    "fp16": (lambda t: setattr(t.accelerator, "scaler", object()), r"Found `fp16=True`.*Use `bf16=True`"),
    "deepspeed": (lambda t: setattr(t, "is_deepspeed_enabled", True), r"Found DeepSpeed: it keeps gradients"),
    "fsdp": (lambda t: setattr(t, "is_fsdp_enabled", True), r"Found FSDP: .*Use DDP"),
    "data parallel": (lambda t: setattr(t.args, "_n_gpu", 2), r"Found `n_gpu = 2`.*torchrun"),
    "init": (lambda t: setattr(t, "model_init", network), r"Found `model_init`.*Give `model=`"),
    "batch size": (lambda t: setattr(t.args, "auto_find_batch_size", True), r"Found `auto_find_batch_size=True`"),
    "lomo": (lambda t: setattr(t.args, "optim", "adalomo"), r"Found `optim = 'adalomo'`.*Use `adamw_torch`"),
    "layerwise": (
        lambda t: setattr(t.args, "optim", "galore_adamw_layerwise"),
        r"Found `optim = 'galore_adamw_layerwise'`: it steps inside the backward pass",
    ),
    "compile": (lambda t: setattr(t.args, "torch_compile", True), r"Found `torch_compile=True`"),
    "context parallel": (
        lambda t: setattr(t, "accelerator", SimpleNamespace(scaler=None, parallelism_config=object())),
        r"Found `parallelism_config`",
    ),
    "tensor parallel": (lambda t: setattr(t.model, "_tp_size", 2), r"Found tensor parallelism"),
    "device map": (lambda t: setattr(t.model, "hf_device_map", {"a": 0, "b": 1}), r"Found `device_map`"),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_what_was_not_tried_is_refused(problem: str) -> None:
    trainer = hugging_face(network())
    spoil, message = PROBLEMS[problem]
    spoil(trainer)
    with pytest.raises(NotImplementedError, match=message):
        UnlearnTrainerCallback(trainer, [Unlearn(bounded())])


def test_callbacks_of_another_loop_are_refused() -> None:
    from lightning.pytorch.callbacks import ModelCheckpoint
    from transformers import PrinterCallback

    cases = [
        (ModelCheckpoint(), NotImplementedError, "`ModelCheckpoint` should find Lightning's own loop"),
        (FinetuneFirst(), NotImplementedError, "`FinetuneFirst` should be one of those that were tried"),
        (
            LookaheadRate(forget=batches(FORGET), retain=batches(RETAIN)),
            NotImplementedError,
            "`LookaheadRate` should be one of those that were tried",
        ),
        (PrinterCallback(), TypeError, "should be callbacks of Lightning.*Found `PrinterCallback`"),
    ]
    for callback, error, message in cases:
        with pytest.raises(error, match=message):
            hugging_face(network(), [callback]).train()


def test_another_trainer_and_a_callback_that_was_not_added_are_refused() -> None:
    with pytest.raises(TypeError, match=r"should be a `transformers.Trainer`.*Found `Trainer`"):
        UnlearnTrainerCallback(quiet(), [])
    trainer = hugging_face(network())
    UnlearnTrainerCallback(trainer, [Unlearn(bounded())], forget=FORGET)
    with pytest.raises(RuntimeError, match="nothing would be forgotten"):
        trainer.train()


def test_without_retain_data_it_is_refused() -> None:
    trainer = hugging_face(network(), [Unlearn(bounded())])
    trainer.train_dataset = None
    with pytest.raises(ValueError, match="should find retain data"):
        trainer.train()


def fit_in_a_process(rank: int, world_size: int) -> list[torch.Tensor]:
    from accelerate.state import AcceleratorState, PartialState

    AcceleratorState._reset_state(reset_partial_state=True)  # of the process that this one was forked from
    PartialState._reset_state()
    model = network()
    callbacks = [Unlearn(bounded()), StepGuard(NoChange()), RecoveryCheck({"int4": Quantize(bits=4)})]
    per_device = {"per_device_train_batch_size": 2 // world_size, "gradient_accumulation_steps": 2}
    backend = "gloo" if world_size > 1 else None
    hugging_face(model, callbacks, max_grad_norm=0.1, ddp_backend=backend, **per_device).train()
    return [p.detach() for p in model.parameters()]


@pytest.mark.slow
def test_two_processes_train_as_one() -> None:
    """Both see half of each batch, of what must stay and of what must go."""
    assert len(RETAIN) % 2 == len(FORGET) % 2 == 0
    expected = fit_in_a_process(0, 1)
    for weights in run_ranks(fit_in_a_process, world_size=2):
        for a, b in zip(weights, expected, strict=True):
            assert_close(a, b, rtol=0, atol=1e-6)
