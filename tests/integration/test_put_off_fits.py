"""A fit whose logits are put off ends with the weights of one that holds them all, in one process and in two."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from _language_models import VOCABULARY, family
from _modules import quiet
from _ranks import run_ranks
from _sharded_fits import LANGUAGE_MODELS
from torch.distributed.tensor import DTensor
from torch.testing import assert_close
from torch.utils.data import DataLoader

from lightning_unlearn import NPO, CausalLMReadout, CyclicOrder, ForgetRetainData, Relearn, Unlearn, UnlearningModule
from lightning_unlearn.functional.head_logits import HeadLogits
from lightning_unlearn.objectives import KLToReference
from lightning_unlearn.readouts import _putting_off

FEW = 3 * VOCABULARY

pytestmark = pytest.mark.filterwarnings("ignore:.*val_dataloader.*")


def rows(seed: int) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, VOCABULARY, (8, 7), generator=generator)
    return [{"input_ids": t, "labels": torch.where(torch.arange(7) > 2, t, -100)} for t in tokens]


STRATEGIES: dict[str, Any] = {"one": (UnlearningModule, lambda: "auto"), **LANGUAGE_MODELS}


def fit(
    at_most: int | None, kind: str = "one", world_size: int = 1, under: Any = None, **trainer: Any
) -> tuple[dict[str, torch.Tensor], int]:
    """The weights in the end, and how often logits were put off."""
    count = 0

    def counted(*args: Any, **kwargs: Any) -> HeadLogits:
        nonlocal count
        count += 1
        return HeadLogits(*args, **kwargs)

    _putting_off.HeadLogits, before = counted, _putting_off.HeadLogits  # type: ignore[assignment, misc]
    try:
        make, strategy = STRATEGIES[kind]
        readout = CausalLMReadout(logits_at_most=at_most)
        optimizer = lambda p: torch.optim.SGD(p, lr=1e-2)  # noqa: E731
        module = make(family("llama"), retain=KLToReference(), readout=readout, optimizer=optimizer)
        retain, forget = (DataLoader(rows(seed), 4 // world_size) for seed in (1, 2))
        data = ForgetRetainData(retain=retain, forget=forget, order=CyclicOrder())
        settings = {"max_steps": 3, "max_epochs": -1, "limit_val_batches": 0, **trainer}
        unlearn = Unlearn(NPO(0.5), readout=readout, **({"under": under} if under else {}))
        quiet(strategy=strategy(), devices=world_size, callbacks=[unlearn], **settings).fit(module, data)
    finally:
        _putting_off.HeadLogits = before  # type: ignore[misc]
    values = {n: p.full_tensor() if isinstance(p, DTensor) else p for n, p in module.network.named_parameters()}
    return {name: value.detach().clone() for name, value in values.items()}, count


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"accumulate_grad_batches": 2, "gradient_clip_val": 0.5},
        pytest.param({"under": {"relearn": Relearn(steps=2, mode="full")}}, marks=pytest.mark.slow),
    ],
    ids=["plain", "accumulated, clipped", "under attack"],
)
def test_weights_are_those_of_whole_logits(settings: dict[str, Any]) -> None:
    (weights, count), (expected, none) = fit(FEW, **settings), fit(None, **settings)
    assert count > 0
    assert none == 0
    assert_close(weights, expected, rtol=0, atol=1e-6)


def test_mixed_precision_stays_within_its_rounding() -> None:
    exact, _ = fit(None)
    start = dict(family("llama").named_parameters())
    (weights, count), (theirs, _) = (fit(n, precision="bf16-mixed") for n in (FEW, None))
    assert count > 0

    def error(found: dict[str, torch.Tensor]) -> float:
        return sum(float((found[n] - exact[n]).square().sum()) for n in exact) ** 0.5

    moved = sum(float((exact[n] - start[n].detach()).square().sum()) for n in exact) ** 0.5
    assert error(weights) < 1.5 * error(theirs) + 1e-3 * moved


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_weights_of_two_processes_are_those_of_one(kind: str) -> None:
    expected, _ = fit(None)
    for weights, count in run_ranks(lambda rank, world_size: fit(FEW, kind, world_size)):
        assert (count > 0) is (kind == "ddp")  # a sharded head is called: its weight is whole in its own forward only
        assert_close(weights, expected, rtol=0, atol=1e-5)
