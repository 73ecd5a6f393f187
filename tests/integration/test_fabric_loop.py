"""A loop written with Fabric forgets as a hand-written one does, and stays its owner's."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from _other_loops import FORGET, RETAIN, adamw, batches, bounded, by_hand, network, rows, with_lightning
from _ranks import run_ranks
from lightning.fabric import Fabric
from lightning.fabric.strategies import FSDPStrategy
from torch import nn
from torch.testing import assert_close

from lightning_unlearn import NPO, DisruptionBudget, Quantize, RecoveryCheck, StepGuard, Unlearn
from lightning_unlearn.data import ForgetStream
from lightning_unlearn.guards import NoChange
from lightning_unlearn.loops import FabricLoop, GuestModule, OuterLoop


def assert_same_weights(a: nn.Module, b: nn.Module, atol: float = 1e-6) -> None:
    for x, y in zip(a.parameters(), b.parameters(), strict=True):
        assert_close(x, y, rtol=0, atol=atol)


def fabric_of(**settings: Any) -> Fabric:
    return Fabric(**{"accelerator": "cpu", "devices": 1, **settings})


def own_loss(model: nn.Module, batch: Any) -> torch.Tensor:
    return model(**batch).loss


def fit(
    net: nn.Module,
    callbacks: list[Any],
    *,
    fabric: Fabric | None = None,
    accumulate: int = 1,
    clip: float | None = None,
    epochs: int = 1,
    batch_size: int = 2,
    **settings: Any,
) -> FabricLoop:
    """A loop as somebody would write it."""
    fabric = fabric or fabric_of()
    model, optimizer = fabric.setup(net, adamw(net))
    retain = fabric.setup_dataloaders(batches(RETAIN, batch_size))
    with FabricLoop(
        fabric, model, optimizer, retain, callbacks, loss=own_loss, accumulate_grad_batches=accumulate, **settings
    ) as loop:
        for _ in range(epochs):
            for batch in loop.batches():
                with fabric.no_backward_sync(model, enabled=loop.accumulates):
                    loop.backward(own_loss(model, batch) / accumulate)
                if loop.accumulates:
                    continue
                if clip is not None:
                    fabric.clip_gradients(model, optimizer, max_norm=clip)
                optimizer.step()
                optimizer.zero_grad()
    return loop


def forgets(objective: Any = None, **settings: Any) -> Unlearn:
    return Unlearn(objective or bounded(), forget=batches(FORGET), **settings)


@pytest.mark.parametrize(("accumulate", "clip"), [(1, None), (5, None), (1, 0.05), (5, 0.05)])
def test_same_weights_as_a_hand_written_loop(accumulate: int, clip: float | None) -> None:
    stream = ForgetStream(batches(FORGET), seed=5)
    expected, net = network(), network()
    by_hand(expected, [next(stream) for _ in range(10)], accumulate=accumulate, clip=clip, epochs=2)
    loop = fit(net, [forgets(seed=5)], accumulate=accumulate, clip=clip, epochs=2)
    assert loop.global_step == 10 // accumulate
    assert_same_weights(net, expected)


def test_forgetting_moves_the_weights_at_all() -> None:
    net, alone = network(), network()
    fit(net, [forgets()])
    fit(alone, [])
    assert max((a - b).abs().max().item() for a, b in zip(net.parameters(), alone.parameters(), strict=True)) > 1e-3


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_same_weights_as_a_lightning_fit_with_a_guard(precision: Any) -> None:
    """With the last step of the epoch on fewer micro-batches."""
    net, expected = network(torch.float32), network(torch.float32)
    callbacks = [forgets(NPO()), StepGuard(NoChange())]
    with_lightning(expected, callbacks, accumulate_grad_batches=2, gradient_clip_val=0.1, precision=precision)
    callbacks = [forgets(NPO()), StepGuard(NoChange())]
    fit(net, callbacks, fabric=fabric_of(precision=precision), accumulate=2, clip=0.1)
    assert_same_weights(net, expected)


def test_autocast_is_that_of_the_device_of_the_network() -> None:
    """Though the trainer that callbacks see runs nothing, and was made for the CPU. No GPU is needed to ask."""
    module = GuestModule(network())
    loop = OuterLoop(module, [], device=torch.device("cuda", 1), precision="bf16-mixed")
    assert (loop.trainer.precision_plugin.device, loop.trainer.precision) == ("cuda", "bf16-mixed")
    assert loop.trainer.strategy.root_device == torch.device("cuda", 1)


def test_checks_leave_the_loop_bit_for_bit_as_it_is() -> None:
    found = []
    for checks in ([], [RecoveryCheck({"int4": Quantize(bits=4)}, every_n_steps=2)]):
        torch.manual_seed(3)
        net = network(torch.float32)
        fit(net, [forgets(), StepGuard(), *checks], epochs=2)
        found.append([*net.parameters(), torch.get_rng_state()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert {o.subject for o in checks[0].observations} == {"original", "unlearned"}
    assert max(o.step for o in checks[0].observations) == 10


@pytest.mark.parametrize("objective", [bounded, NPO])
def test_resuming_gives_the_same_weights(objective: Any, tmp_path: Path) -> None:
    def run(net: nn.Module, epochs: int, load: bool = False) -> None:
        fabric = fabric_of()
        model, optimizer = fabric.setup(net, adamw(net))
        retain = fabric.setup_dataloaders(batches(RETAIN))
        loop = FabricLoop(fabric, model, optimizer, retain, [forgets(objective()), StepGuard()], loss=own_loss)
        state = {"model": model, "optimizer": optimizer, "loop": loop}
        if load:
            fabric.load(tmp_path / "last.ckpt", state)
        with loop:
            for _ in range(epochs):
                for batch in loop.batches():
                    loop.backward(own_loss(model, batch))
                    optimizer.step()
                    optimizer.zero_grad()
            fabric.save(tmp_path / "last.ckpt", state)

    whole, net, resumed = network(torch.float32), network(torch.float32), network(torch.float32)
    run(whole, epochs=2)
    run(net, epochs=1)
    run(resumed, epochs=1, load=True)
    assert_same_weights(resumed, whole, atol=0)


def test_values_go_to_the_loggers_of_fabric(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[set[str], Any]] = []
    fabric = fabric_of()
    monkeypatch.setattr(fabric, "log_dict", lambda values, step=None: seen.append((set(values), step)))
    fit(network(), [forgets(), StepGuard()], fabric=fabric, log_every_n_steps=2)
    steps = [step for names, step in seen if {"unlearn/forget", "unlearn/cosine", "guard/kept"} <= names]
    assert steps == [1, 3]  # counted from 0, as Lightning counts


@pytest.mark.parametrize("fails", [False, True])
def test_afterwards_nothing_of_ours_is_left(fails: bool) -> None:
    net, fabric = network(), fabric_of()
    model, optimizer = fabric.setup(net, adamw(net))
    loop = FabricLoop(fabric, model, optimizer, fabric.setup_dataloaders(batches(RETAIN)), [forgets(), StepGuard()])
    with pytest.raises(RuntimeError, match="out of memory") if fails else nullcontext(), loop:
        for batch in loop.batches():
            loop.backward(own_loss(model, batch))
            optimizer.step()
            optimizer.zero_grad()
            if fails:
                raise RuntimeError("out of memory")
    assert not optimizer.optimizer._optimizer_step_post_hooks
    assert not any(m._load_state_dict_pre_hooks or m._forward_hooks for m in net.modules())


def test_a_step_that_did_not_forget_is_an_error() -> None:
    """As when `fabric.backward` is called and not `loop.backward`."""
    net, fabric = network(), fabric_of()
    model, optimizer = fabric.setup(net, adamw(net))
    with pytest.raises(RuntimeError, match="Every optimizer step should carry a forget gradient. Found 5 steps"):
        with FabricLoop(fabric, model, optimizer, batches(RETAIN), [forgets()]) as loop:
            for batch in loop.batches():
                fabric.backward(own_loss(model, batch))
                optimizer.step()
                optimizer.zero_grad()


def test_a_budget_ends_the_epoch() -> None:
    budget = DisruptionBudget(kl=1e-9, every=1)
    loop = fit(network(torch.float32), [forgets(), budget], epochs=3)
    assert loop.should_stop
    assert loop.global_step < 5


def test_a_loop_that_is_left_early_counts_its_last_step() -> None:
    net, fabric = network(), fabric_of()
    model, optimizer = fabric.setup(net, adamw(net))
    check = RecoveryCheck({"int4": Quantize(bits=4)}, every_n_steps=3)
    with FabricLoop(fabric, model, optimizer, batches(RETAIN), [forgets(), check]) as loop:
        for number, batch in enumerate(loop.batches()):
            loop.backward(own_loss(model, batch))
            optimizer.step()
            optimizer.zero_grad()
            if number == 2:
                break
    assert loop.global_step == 3
    assert [o.step for o in check.observations][-1] == 3


def test_what_was_not_tried_is_refused() -> None:
    net, fabric = network(torch.float32), fabric_of()
    model, optimizer = fabric.setup(net, adamw(net))
    retain = batches(RETAIN)
    with pytest.raises(TypeError, match=r"`model` should be what `fabric.setup\(model, optimizer\)` returned"):
        FabricLoop(fabric, net, optimizer, retain, [])
    with pytest.raises(TypeError, match="`optimizer` should be what"):
        FabricLoop(fabric, model, adamw(net), retain, [])
    with pytest.raises(ValueError, match="`accumulate_grad_batches` should be"):
        FabricLoop(fabric, model, optimizer, retain, [], accumulate_grad_batches=0)
    with pytest.raises(NotImplementedError, match="Found `torch.compile`, which was not tried"):
        FabricLoop(fabric, fabric.setup(torch.compile(network())), optimizer, retain, [])
    with pytest.raises(NotImplementedError, match="Found `precision = '16-true'`.*Use `'bf16-mixed'`"):
        FabricLoop(fabric_of(precision="16-true"), model, optimizer, retain, [])
    fabric._strategy = FSDPStrategy()
    with pytest.raises(NotImplementedError, match="Found `FSDPStrategy`, which was not tried.*FSDP2"):
        FabricLoop(fabric, model, optimizer, retain, [])


def fit_in_a_process(rank: int, world_size: int) -> list[torch.Tensor]:
    fabric = fabric_of(devices=world_size, strategy="ddp" if world_size > 1 else "auto")
    fabric.launch()
    net = network()
    callbacks = [forgets_by(2 // world_size), StepGuard(NoChange()), RecoveryCheck({"int4": Quantize(bits=4)})]
    fit(net, callbacks, fabric=fabric, accumulate=5, clip=0.1, batch_size=2 // world_size, epochs=2)
    return [p.detach() for p in net.parameters()]


def forgets_by(batch_size: int) -> Unlearn:
    return Unlearn(bounded(), forget=batches(rows(2, n=6), batch_size))


@pytest.mark.slow
def test_two_processes_train_as_one() -> None:
    (expected,) = run_ranks(fit_in_a_process, world_size=1)
    for weights in run_ranks(fit_in_a_process, world_size=2):
        for a, b in zip(weights, expected, strict=True):
            assert_close(a, b, rtol=0, atol=1e-6)
