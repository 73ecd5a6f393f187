"""Extra gradients are those of autograd, and nothing that was there before is touched."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from _modules import SomebodysModule, examples, loader, quiet
from _ranks import run_ranks
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader

from lightning_unlearn.engine import (
    GradientEngine,
    add_gradient_,
    adds_in_place,
    combine_,
    gradients_set_aside,
    strategy_kind,
)
from lightning_unlearn.engine import _gradients as gradients_file
from lightning_unlearn.runtime import without_logging


def batches(n: int = 3) -> list[Any]:
    return list(loader(seed=2, n=4 * n))


def loss_of(module: nn.Module) -> Any:
    return lambda batch: F.cross_entropy(module(batch[0]), batch[1])


def by_autograd(module: nn.Module, data: list[Any], params: list[Tensor], divisor: float) -> list[Tensor | None]:
    loss = sum(loss_of(module)(batch) for batch in data) / divisor
    return list(torch.autograd.grad(loss, params, allow_unused=True))


def with_trainer(module: pl.LightningModule, **kwargs: Any) -> GradientEngine:
    """An engine as in a fit, which is not run."""
    trainer = quiet(**kwargs)
    trainer.strategy.connect(module)
    module.trainer = trainer
    return GradientEngine(module, trainer)


def in_flight(module: nn.Module) -> list[Tensor | None]:
    """Gradients of a step that is under way, one parameter without."""
    F.cross_entropy(module(examples(5)[:8][0]), examples(5)[:8][1]).backward()
    return [p.grad for p in module.parameters()]


class Checkpointed(SomebodysModule):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(checkpoint(self.body, x.requires_grad_(), use_reentrant=True))


class Frozen(SomebodysModule):
    def __init__(self) -> None:
        super().__init__()
        self.body.requires_grad_(False)


class Tied(SomebodysModule):
    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Linear(16, 5)
        self.again.weight = self.head.weight

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.again(self.body(x))


MODULES = {"plain": SomebodysModule, "checkpointed": Checkpointed, "frozen": Frozen, "tied": Tied}


@pytest.mark.parametrize("divisor", [None, 2.0])
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("kind", MODULES)
def test_row_is_autograds_gradient(kind: str, trained: bool, divisor: float | None) -> None:
    module = MODULES[kind]()
    engine = with_trainer(module) if trained else GradientEngine(module)
    params, data = [p for p in module.parameters() if p.requires_grad], batches()
    reference = (
        Tied() if kind == "tied" else SomebodysModule()
    )  # autograd.grad does not go through reentrant checkpoints
    reference.load_state_dict(module.state_dict())
    for p, q in zip(reference.parameters(), module.parameters(), strict=True):
        p.requires_grad_(q.requires_grad)
    wanted = [p for p in reference.parameters() if p.requires_grad]
    expected = by_autograd(reference, data, wanted, divisor or len(data))

    row, losses = engine.row(loss_of(module), data, params, divisor=divisor)

    for name, got, want in zip(
        [n for n, p in module.named_parameters() if p.requires_grad], row, expected, strict=True
    ):
        if name == "unused":
            assert got is None
            assert want is None
        else:
            assert_close(got, want, rtol=0, atol=1e-6)
    assert_close(losses, torch.stack([loss_of(module)(batch).detach() for batch in data]))


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("how", ["row", "backward"])
def test_gradients_in_flight_are_the_very_same_tensors_afterwards(how: str, fails: bool) -> None:
    module = SomebodysModule()
    before = in_flight(module)
    values, seen = [None if g is None else g.clone() for g in before], []

    def loss(batch: Any) -> Tensor:
        assert all(p.grad is None for p in module.parameters()) or len(seen) == 1
        seen.append(batch)
        out = loss_of(module)(batch)
        if fails:
            out.backward()
            raise RuntimeError("in the middle")
        return out

    engine, params = GradientEngine(module), list(module.parameters())
    run = (
        (lambda: engine.row(loss, batches(2), params))
        if how == "row"
        else (lambda: engine.backward(loss, batches(1)[0]))
    )
    if fails:
        with pytest.raises(RuntimeError, match="in the middle"):
            run()
    else:
        run()
    for p, grad, value in zip(module.parameters(), before, values, strict=True):
        assert p.grad is grad
        assert grad is None or torch.equal(grad, value)


def test_parameters_outside_the_module_are_set_aside_too() -> None:
    """An adapter held by hooks: its own `.grad` must not leak into the row."""
    module, outside = SomebodysModule(), nn.Parameter(torch.ones(5))
    outside.grad = torch.full((5,), 7.0)
    (row,), _ = GradientEngine(module).row(lambda batch: (module(batch[0]) * outside).sum(), batches(1), [outside])
    assert_close(row, module(batches(1)[0][0]).sum(0))
    assert outside.grad.tolist() == [7.0] * 5
    with gradients_set_aside(module, [outside]):
        assert outside.grad is None


def test_parameters_not_asked_for_get_nothing() -> None:
    module = SomebodysModule()
    row, _ = GradientEngine(module).row(loss_of(module), batches(1), [module.head.weight])
    assert len(row) == 1
    assert all(p.grad is None for p in module.parameters())


def test_no_batches_get_one_clear_error() -> None:
    with pytest.raises(ValueError, match=r"at least one micro-batch\. Found none"):
        GradientEngine(SomebodysModule()).row(lambda batch: batch, [], [])


def test_row_runs_in_the_precision_of_the_fit() -> None:
    module = SomebodysModule()
    seen = []

    def loss(batch: Any) -> Tensor:
        seen.append(module(batch[0]).dtype)
        return loss_of(module)(batch)

    row, losses = with_trainer(module, precision="bf16-mixed").row(loss, batches(1), [module.head.weight])
    assert seen == [torch.bfloat16]
    assert row[0].dtype == losses.dtype == torch.float32


def test_row_is_of_the_weights_as_they_are_inside_one_long_autocast() -> None:
    module, (batch,) = SomebodysModule(), batches(1)
    params, engine, loss = [module.head.weight], GradientEngine(module), loss_of(module)
    with torch.autocast("cpu", torch.bfloat16):
        engine.row(loss, [batch], params)  # casts weights
        with torch.no_grad():
            for p in module.parameters():
                p.mul_(2)
        seen, _ = engine.row(loss, [batch], params)
    with torch.autocast("cpu", torch.bfloat16):
        expected, _ = engine.row(loss, [batch], params)
    assert torch.equal(seen[0], expected[0])


def test_batches_go_through_the_users_transfer_hooks_and_precision() -> None:
    class Transferring(SomebodysModule):
        def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return batch * 2

        def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
            return (batch + 1).to(device)

        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return batch * 10

    class Ask(pl.Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, *args: Any) -> None:
            seen.append(GradientEngine(module, trainer).to_device(batch))

    seen, batch, data = [], torch.ones(2), DataLoader(torch.ones(2, 2))
    for precision in ("32-true", "64-true"):
        module = Transferring()
        module.training_step = lambda batch, index, module=module: module.head.bias.sum() * batch.sum()
        quiet(callbacks=[Ask()], max_steps=1, precision=precision).fit(module, data)
    assert [s.tolist() for s in seen] == [[30, 30], [30, 30]]
    assert [s.dtype for s in seen] == [torch.float32, torch.float64]
    assert GradientEngine(Transferring()).to_device(batch) is batch


class TestMuted:
    """`self.log` of a module does nothing in extra passes, and is what it was afterwards."""

    def test_extra_passes_log_nothing(self) -> None:
        class Logging(SomebodysModule):
            def forward(self, x: Tensor) -> Tensor:
                self.log("calls", 1.0)
                self.log_dict({"more": 2.0})
                return super().forward(x)

        class Ask(pl.Callback):
            def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
                before = dict(trainer.callback_metrics)
                GradientEngine(module, trainer).row(loss_of(module), batches(1), [module.head.weight])
                assert trainer.callback_metrics == before

        trainer = quiet(callbacks=[Ask()], max_steps=1)
        trainer.fit(Logging(), loader(seed=1))
        assert trainer.callback_metrics["calls"] == 1

    @pytest.mark.parametrize("fails", [False, True])
    def test_attributes_of_the_instance_come_back(self, fails: bool) -> None:
        module = SomebodysModule()
        own = module.__dict__["log"] = lambda *args: "own"
        try:
            with without_logging(module), without_logging(module):
                assert module.log("x", 1.0) is None
                assert module.log_dict({}) is None
                if fails:
                    module.__dict__.pop("log_dict")
                    raise RuntimeError
        except RuntimeError:
            pass
        assert module.__dict__["log"] is own
        assert "log_dict" not in module.__dict__

    def test_class_methods_come_back(self) -> None:
        module = SomebodysModule()
        with without_logging(module):
            pass
        assert module.log.__func__ is pl.LightningModule.log


def scaled(init_scale: float, module: pl.LightningModule) -> GradientEngine:
    scaler = torch.amp.GradScaler("cpu", init_scale=init_scale)
    return with_trainer(module, plugins=[MixedPrecision("16-mixed", "cpu", scaler=scaler)])


class TestGradientScaler:
    """Under 16-bit floats the extra loss is scaled too, and at half until its gradient is finite."""

    @pytest.mark.parametrize("init_scale", [1.0, 2.0**8, 2.0**127])
    def test_whatever_the_scale_the_gradient_is_the_same(self, init_scale: float) -> None:
        module = SomebodysModule()
        params, calls = [module.body[0].weight, module.head.bias], []

        def loss(batch: Any) -> Tensor:
            calls.append(batch)
            return 4 * F.cross_entropy(module(batch[0]).float(), batch[1])

        row, losses = scaled(init_scale, module).row(loss, batches(2), params)
        assert (len(calls) > 2) == (init_scale == 2.0**127)  # the first attempt overflows
        with torch.autocast("cpu", torch.float16):
            data = batches(2)
            total = sum(4 * F.cross_entropy(module(b[0]).float(), b[1]) for b in data) / 2
            expected = torch.autograd.grad(total, params)
        for got, want in zip(row, expected, strict=True):
            assert_close(got, want, rtol=0, atol=3e-3)
        assert_close(losses.mean(), total.detach())

    def test_adapters_outside_the_module_start_each_attempt_anew(self) -> None:
        module, outside = SomebodysModule(), nn.Parameter(torch.ones(()))
        (row,), _ = scaled(2.0**127, module).row(lambda batch: 8 * outside, [None], [outside])
        assert row.item() == 8

    def test_a_gradient_that_is_never_finite_gets_one_clear_error(self) -> None:
        module = SomebodysModule()
        before = in_flight(module)
        with pytest.raises(FloatingPointError, match=r"finite at some loss scale.* Use `precision='bf16-mixed'`"):
            scaled(1.0, module).row(
                lambda batch: (module.head.bias * 0).sqrt().sum(), [None], list(module.parameters())
            )
        assert all(p.grad is g for p, g in zip(module.parameters(), before, strict=True))

    def test_a_loss_that_is_not_finite_is_not_tried_again(self) -> None:
        module, calls = SomebodysModule(), []

        def loss(batch: Any) -> Tensor:
            calls.append(batch)
            return module.head.bias.sum() * float("nan")

        _, losses = scaled(2.0**16, module).row(loss, [None], [module.head.bias])
        assert losses.isnan().all()
        assert len(calls) == 1


class TestAddedInPlace:
    """Adding as backward goes gives what rows and their combination give."""

    @pytest.mark.parametrize("kind", ["plain", "frozen", "tied"])
    @pytest.mark.parametrize("weight", [1.0, 0.3])
    def test_equals_row_and_combine(self, kind: str, weight: float) -> None:
        one, two = MODULES[kind](), MODULES[kind]()
        two.load_state_dict(one.state_dict())
        (batch,) = batches(1)
        params, others = ([p for p in m.parameters() if p.requires_grad] for m in (one, two))
        grads = in_flight(one), in_flight(two)
        one.head.bias.grad = two.head.bias.grad = None
        engine = GradientEngine(two)
        row, losses = engine.row(loss_of(two), [batch], others)
        expected = engine.gramian([row, [p.grad for p in others]], others)
        combine_(others, [row, [p.grad for p in others]], [weight, 1.0])

        loss, gramian = add_gradient_(GradientEngine(one), loss_of(one), batch, params, weight=weight, measured=True)

        assert_close(loss, losses[0])
        assert_close(gramian, expected, rtol=1e-5, atol=1e-9)
        for p, q, before in zip(one.parameters(), two.parameters(), grads[0], strict=True):
            assert (p.grad is None) == (q.grad is None)
            assert p.grad is None or torch.equal(p.grad, q.grad)
            assert before is None or p is one.head.bias or p.grad is before  # added to, not replaced

    def test_parts_are_added_but_not_measured(self) -> None:
        one, two = Checkpointed(), SomebodysModule()
        once = one.body
        one.forward = lambda x: one.head(
            checkpoint(once, x.requires_grad_(), use_reentrant=True) + checkpoint(once, x * 2, use_reentrant=True)
        )
        two.forward = lambda x: two.head(two.body(x) + two.body(x * 2))
        (batch,) = batches(1)
        _, gramian = add_gradient_(
            GradientEngine(one), loss_of(one), batch, list(one.parameters()), weight=1.0, measured=True
        )
        assert gramian is None
        loss_of(two)(batch).backward()
        for p, q in zip(one.parameters(), two.parameters(), strict=True):
            assert (p.grad is None) == (q.grad is None)
            assert p.grad is None or torch.allclose(p.grad, q.grad, atol=1e-6)

    def test_no_hook_remains_and_unmeasured_gives_no_gramian(self) -> None:
        module, (batch,) = SomebodysModule(), batches(1)
        engine, params = GradientEngine(module), list(module.parameters())
        assert add_gradient_(engine, loss_of(module), batch, params, weight=1.0, measured=False)[1] is None
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            add_gradient_(engine, loss_of(module), (torch.ones(1, 3), batch[1]), params, weight=1.0, measured=True)
        assert not any(p._post_accumulate_grad_hooks for p in params)

    def test_only_where_nothing_is_to_be_averaged_or_unscaled(self) -> None:
        assert adds_in_place(GradientEngine(SomebodysModule()), 1)
        assert adds_in_place(with_trainer(SomebodysModule()), 1)
        assert not adds_in_place(with_trainer(SomebodysModule()), 2)
        assert not adds_in_place(scaled(1.0, SomebodysModule()), 1)


@pytest.mark.parametrize("limit", [1, 100, 1 << 20])
def test_buckets_hold_every_parameter_once_in_order_within_the_limit(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gradients_file, "_BUCKET_BYTES", limit)
    dtypes = [torch.float32, torch.float32, torch.bfloat16, torch.float32, torch.float32]
    params = [torch.zeros(n, dtype=d) for n, d in zip([10, 20, 3, 100, 1], dtypes, strict=True)]
    buckets = list(gradients_file._buckets([0, 1, 2, 3, 4], params))
    assert [i for bucket in buckets for i in bucket] == [0, 1, 2, 3, 4]
    for bucket in buckets:
        assert len({params[i].dtype for i in bucket}) == 1
        assert len(bucket) == 1 or sum(params[i].nbytes for i in bucket) <= limit
    assert len(buckets) == {1: 5, 100: 5, 1 << 20: 3}[limit]
    assert list(gradients_file._buckets([], params)) == []


class Uneven(SomebodysModule):
    """Rank 1 does not use one layer in its extra pass."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(16, 5).to(torch.bfloat16)

    def extra(self, batch: Any) -> Tensor:
        x, y = batch
        out = self.head(self.body(x))
        if self.trainer.global_rank == 0:
            out = out + self.other(self.body(x).bfloat16()).float()
        return F.cross_entropy(out, y)


def test_rows_are_averaged_over_replicas_also_of_layers_that_only_one_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradients_file, "_BUCKET_BYTES", 300)  # several buckets

    def on_rank(rank: int, world_size: int) -> Any:
        found = []

        class Ask(pl.Callback):
            def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
                engine = GradientEngine(module, trainer)
                share = list(loader(seed=2, n=8))[rank : rank + 1]
                params = list(module.parameters())
                row, losses = engine.row(module.extra, share, params)
                found.extend([row, losses, engine.average(torch.tensor(float(rank)))])
                found.append([None if p.grad is None else p.grad.clone() for p in params])

        torch.manual_seed(0)
        module = Uneven()
        strategy = DDPStrategy(find_unused_parameters=True)
        quiet(callbacks=[Ask()], strategy=strategy, devices=world_size, max_steps=1).fit(module, loader(seed=1))
        return found

    torch.manual_seed(0)
    module = Uneven()
    data, params = list(loader(seed=2, n=8)), list(module.parameters())
    expected: list[Tensor] = [torch.zeros_like(p) for p in params]
    losses = []
    for rank in range(2):
        module.trainer = type("T", (), {"global_rank": rank})()
        loss = module.extra(data[rank])
        losses.append(loss.detach())
        for total, g in zip(expected, torch.autograd.grad(loss, params, allow_unused=True), strict=True):
            total += 0 if g is None else g / 2
    for row, mean_losses, mean, grads in run_ranks(on_rank):
        assert mean == 0.5
        assert_close(mean_losses, sum(losses)[None] / 2)
        for name, got, want in zip([n for n, _ in module.named_parameters()], row, expected, strict=True):
            if name == "unused":
                assert got is None
            else:
                assert_close(got, want, rtol=0, atol=1e-3 if "other" in name else 1e-6)
        assert any(g is not None for g in grads)


LARGEST = torch.finfo(torch.float32).max


@pytest.mark.parametrize(
    ("row", "finite"),
    [
        ([torch.ones(3), None, torch.ones(2, 2, dtype=torch.bfloat16)], True),
        ([None, torch.ones(0)], True),
        ([], True),
        ([torch.full((3,), LARGEST)], True),
        ([torch.full((70_000,), 2.0, dtype=torch.float16)], True),
        ([torch.tensor([1e300], dtype=torch.float64), torch.ones(1)], True),
        ([torch.ones(1), torch.tensor([1.0, float("nan")])], False),
        ([torch.tensor([float("inf"), -float("inf")])], False),
        ([torch.full((3,), LARGEST), torch.tensor([float("inf")], dtype=torch.float16)], False),
        ([torch.tensor([complex(1, float("inf"))]), torch.ones(1)], False),
        ([torch.full((3,), LARGEST), torch.tensor([complex(1, 2)])], True),
    ],
)
def test_finite_is_what_has_neither_nan_nor_infinity_however_large(row: list[Tensor | None], finite: bool) -> None:
    assert GradientEngine(nn.Linear(1, 1)).is_finite(row) == finite


def test_strategies_are_told_by_name_whatever_package_they_come_from() -> None:
    twin = type("DDPStrategy", (), {"__module__": "pytorch_lightning.strategies"})
    own = type("MyStrategy", (twin,), {})
    assert strategy_kind(type("T", (), {"strategy": own()})()) == "ddp"
    assert strategy_kind(quiet()) == "single"
    assert strategy_kind(type("T", (), {"strategy": FSDPStrategy.__new__(FSDPStrategy)})()) == "fsdp1"
    with pytest.raises(NotImplementedError, match=r"single-device, DDP, FSDP .* Found `Strange`"):
        strategy_kind(type("T", (), {"strategy": type("Strange", (), {})()})())
