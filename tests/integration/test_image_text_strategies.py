"""A model that sees forgets alike in one process and in two, sharded or not, compiled or not, and nearly so in bf16."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from _image_text_models import image_batch, image_text_model
from _modules import quiet
from _ranks import run_ranks
from _sharded_fits import LANGUAGE_MODELS
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from lightning_unlearn import (
    NPO,
    CyclicOrder,
    ForgetRetainData,
    LoRA,
    Quantize,
    RecoveryCheck,
    Relearn,
    StepGuard,
    Unlearn,
    UnlearningModule,
)
from lightning_unlearn.audits import Generation, Measure
from lightning_unlearn.objectives import KLToReference

MODELS = ("ours", "llava", "internvl", "idefics3", "blip2")
BETA, RATE, MOMENTUM, STEPS = 0.5, 0.05, 0.5, 4
LENGTHS, ANSWER = (9, 6, 7, 8), 3  # as many supervised tokens in each row: a mean over ranks is one over rows
Weights = dict[str, Tensor]

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*validation_step:lightning.fabric.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore:Found .* in eval mode"),  # dropout would be drawn otherwise in two processes
    pytest.mark.filterwarnings("ignore:FSDP2-wrapped module .* returned a view"),  # theirs: what some of them return
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),  # of the compiler's guards
]


def rows(name: str, seed: int, blind: bool = False) -> list[dict[str, Tensor]]:
    found = []
    for each in (seed, seed + 1):
        batch = image_batch(name, lengths=LENGTHS, prompt=0, seed=each)
        ends = batch["attention_mask"].sum(1, keepdim=True)
        batch["labels"][torch.arange(batch["labels"].shape[1]) < ends - ANSWER] = -100
        if blind:
            batch["pixel_values"].fill_(1.0)  # all look alike
        found += [{k: v[row] for k, v in batch.items()} for row in range(len(LENGTHS))]
    return found


STRATEGIES: dict[str, Any] = {
    **LANGUAGE_MODELS,
    "one": (UnlearningModule, lambda: "auto"),
    "ddp": (UnlearningModule, lambda: DDPStrategy(find_unused_parameters=True)),  # some do not use all of their encoder
}


def plain(name: str) -> nn.Module:
    return image_text_model(name)


def adapted(name: str) -> nn.Module:
    return LoRA(r=2, target_modules=["q_proj", "v_proj"]).wrap(image_text_model(name)).eval()


def fit(
    name: str,
    kind: str = "one",
    world_size: int = 1,
    *,
    make: Callable[[str], nn.Module] = plain,
    blind: bool = False,
    unlearn: Any = None,
    callbacks: Any = (),
    module: Any = None,
    **trainer: Any,
) -> tuple[Weights, dict[str, float]]:
    """Weights after a few steps, and what was logged in the last one."""
    kind_of_module, strategy = STRATEGIES[kind]
    retain, forget = (DataLoader(rows(name, seed, blind), 4 // world_size) for seed in (1, 5))
    data = ForgetRetainData(retain=retain, forget=forget, order=CyclicOrder())
    optimizer = lambda p: torch.optim.SGD(p, lr=RATE, momentum=MOMENTUM)  # noqa: E731
    fitted = kind_of_module(make(name), optimizer=optimizer, **(module or {}))
    settings = {"max_steps": STEPS, "max_epochs": -1, "limit_val_batches": 0, **trainer}
    called = [Unlearn(NPO(BETA), **(unlearn or {})), *callbacks]
    trained = quiet(strategy=strategy(), devices=world_size, callbacks=called, **settings)
    trained.fit(fitted, datamodule=data)
    values = {n: p.full_tensor() if isinstance(p, DTensor) else p for n, p in fitted.network.named_parameters()}
    logged = {n: float(v) for n, v in trained.callback_metrics.items()}
    return {n.replace("_orig_mod.", ""): v.detach().clone() for n, v in values.items()}, logged


def start(name: str) -> Weights:
    return {n: p.detach() for n, p in plain(name).named_parameters()}


def far(one: Weights, other: Weights) -> float:
    return max(float((value - other[n]).abs().max()) for n, value in one.items())


def distance(one: Weights, other: Weights) -> float:
    return sum(float((value - other[n]).square().sum()) for n, value in one.items()) ** 0.5


# One process


def by_hand(name: str) -> Weights:
    """The same steps, from the model's own loss of each row alone."""
    network = plain(name)
    retain, forget = ([data[:4], data[4:]] for data in (rows(name, 1), rows(name, 5)))

    def nll(row: dict[str, Tensor]) -> Tensor:
        return network(**{k: v[None] for k, v in row.items()}).loss * ANSWER

    with torch.no_grad():
        original = [torch.stack([nll(row) for row in batch]) for batch in forget]
    optimizer = torch.optim.SGD(network.parameters(), lr=RATE, momentum=MOMENTUM)
    for step in range(STEPS):
        kept = torch.stack([nll(row) for row in retain[step % 2]]).mean() / ANSWER
        ratio = original[step % 2] - torch.stack([nll(row) for row in forget[step % 2]])
        (kept + 2 / BETA * F.softplus(BETA * ratio).mean()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return {n: p.detach() for n, p in network.named_parameters()}


@pytest.mark.parametrize("name", MODELS)
def test_the_fit_is_that_of_a_hand_written_loop(name: str) -> None:
    """Also where the encoder's states are recorded by hooks that transformers puts on in the first pass, which is ours."""
    found, expected = fit(name)[0], by_hand(name)
    assert far(found, start(name)) > 0.05  # it did move
    assert far(found, expected) < 1e-5
    assert far(expected, fit(name, blind=True)[0]) > 1e-3  # and the images mattered


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ours", "llava", "internvl"])
def test_mixed_precision_is_near_and_blind_would_be_far(name: str) -> None:
    exact, blind = fit(name)[0], fit(name, blind=True)[0]
    mixed, logged = fit(name, precision="bf16-mixed")
    assert all(math.isfinite(value) for value in logged.values())
    moved = distance(exact, start(name))
    error = distance(mixed, exact)
    assert 0 < error < 0.04 * moved
    assert distance(blind, exact) > 0.4 * moved


def compiled(part: str, backend: str) -> Callable[[str], nn.Module]:
    def make(name: str) -> nn.Module:
        network: Any = plain(name)
        if part == "wrapped":
            return torch.compile(network, backend=backend)  # type: ignore[return-value]
        parts = {
            "whole": network,
            "sees": network.encoder if name == "ours" else network.model.vision_tower,
            "speaks": network.language_model.model if name == "ours" else network.model.language_model,
        }
        parts[part].compile(backend=backend)
        return network

    return make


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ours", "llava"])
@pytest.mark.parametrize(
    ("part", "backend"),
    [("wrapped", "eager"), ("whole", "eager"), ("sees", "eager"), ("speaks", "eager"), ("speaks", "aot_eager")],
)
def test_a_compiled_model_trains_the_same(name: str, part: str, backend: str) -> None:
    torch.compiler.reset()
    expected, found = fit(name)[0], fit(name, make=compiled(part, backend))[0]
    assert far(expected, start(name)) > 0.05
    assert far(found, expected) < 1e-6


# Two processes


HOW: dict[str, Any] = {
    "plain": {},
    "adapter": {"make": adapted},
    "guard": {"unlearn": {"weight": 20.0}, "callbacks": [StepGuard()], "module": {"retain": KLToReference()}},
    "under": {"unlearn": {"under": {"relearn": Relearn(steps=2, mode="full"), "int4": Quantize(4, group_size=8)}}},
    "accumulation, clipping": {"accumulate_grad_batches": 2, "gradient_clip_val": 0.1, "max_steps": 2},
}
MOVED = [(name, "plain") for name in MODELS] + [
    (name, how) for name in ("ours", "llava") for how in HOW if how != "plain"
]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
@pytest.mark.parametrize(("name", "how"), MOVED)
def test_two_processes_equal_one(name: str, how: str, kind: str) -> None:
    expected, logged = fit(name, **HOW[how])
    begun = {n: p.detach() for n, p in HOW[how].get("make", plain)(name).named_parameters()}
    assert far(expected, begun) > 1e-3
    for weights, there in run_ranks(lambda rank, world: fit(name, kind, world, **HOW[how])):
        assert far(expected, weights) < 2e-6
        for each in ("unlearn/forget", "unlearn/cosine", "unlearn/forget_norm", "unlearn/retain_norm"):
            assert there[each] == pytest.approx(logged[each], abs=2e-6, rel=1e-6)


def check() -> RecoveryCheck:
    return RecoveryCheck(
        {"int4": Quantize(bits=4, group_size=8), "full": Relearn(steps=2, lr=1e-2, mode="full", data="rows")},
        audits=[Measure(), Generation("bundled", max_new_tokens=4)],
        every_n_steps=STEPS,
        probes={"forget": DataLoader(rows("llava", 5), 4), "retain": DataLoader(rows("llava", 1), 4)},
        attack_data={"rows": DataLoader(rows("llava", 5), 4)},
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_checks_disturb_no_rank_and_agree_with_one_process(kind: str) -> None:
    without = run_ranks(lambda rank, world: fit("llava", kind, world))
    within = run_ranks(lambda rank, world: fit("llava", kind, world, callbacks=[check()]))
    _, logged = fit("llava", callbacks=[check()])
    names = [name for name in logged if name.startswith("recovery/")]
    assert {name.split("/")[1] for name in names} >= {"none", "int4", "full"}
    assert "recovery/full/rouge_l" in names
    for (weights, _), (looked, there) in zip(without, within, strict=True):
        assert all(torch.equal(weights[n], looked[n]) for n in weights)
        for name in names:
            assert there[name] == pytest.approx(logged[name], abs=1e-5), name
