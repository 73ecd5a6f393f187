"""Inner steps that forget, outer steps of the fit's own, and the gradient of a gradient's norm."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from _modules import CLASSES, HostileModule, SomebodysModule, examples, loader, quiet, same
from _observed_fits import levels, probability_by_hand
from _ranks import run_ranks
from _sharded_fits import STRATEGIES, data, whole
from _sharded_fits import loader as sharded_loader
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

from lightning_unlearn import (
    NPO,
    BilevelUnlearn,
    Bounded,
    CyclicOrder,
    ForgetRetainData,
    GradientAscent,
    NeuralVariability,
    PenalizedUnlearn,
    Quantize,
    RecoveryCheck,
    StepGuard,
    TrainOnly,
    Unlearn,
)
from lightning_unlearn.attacks import Attack
from lightning_unlearn.data import ForgetStream
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.forgetting import Curvature, DoubleBackward, FiniteDifference
from lightning_unlearn.forgetting._potential import Point, Potential
from lightning_unlearn.selectors import Random, TopShare

BOUND = 4.0
CURVATURES: dict[str, Callable[[], Curvature]] = {
    "finite difference": lambda: FiniteDifference(size=1e-6),
    "double backward": lambda: DoubleBackward(size=1e-6),
}
BOTH = pytest.mark.parametrize("curvature", CURVATURES)


class Plain(SomebodysModule):
    """Gradient descent without anything else."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def forgetting(**kwargs: Any) -> BilevelUnlearn:
    settings = {"beta": 0.0, "rho": 0.0, "inner_steps": 3, "inner_lr": 0.01, "outer_steps": 2, **kwargs}
    return BilevelUnlearn(Bounded(GradientAscent(), BOUND), forget=loader(seed=2), **settings)


def fit(*callbacks: Any, module: Any = None, batches: Any = None, **kwargs: Any) -> tuple[Any, Any]:
    module = SomebodysModule("sgd") if module is None else module
    ckpt_path = kwargs.pop("ckpt_path", None)
    trainer = quiet(callbacks=list(callbacks), **{"max_epochs": 2, **kwargs})
    trainer.fit(module, loader(seed=1) if batches is None else batches, ckpt_path=ckpt_path)
    return module, trainer


def forget_loss(module: Any, batch: Any) -> Tensor:
    return torch.relu(BOUND - F.cross_entropy(module(batch[0]), batch[1]))


def retain_loss(module: Any, batch: Any) -> Tensor:
    return F.cross_entropy(module(batch[0]), batch[1])


# The potential and its derivatives


def potential_of(module: Any, beta: float, sim: Any) -> Potential:
    engine = GradientEngine(module)
    losses = [lambda batch, loss=loss: loss(module, batch) for loss in (forget_loss, retain_loss)]
    return Potential(engine, *losses, beta, sim)


def point_of(module: Any) -> Point:
    parts = [[[x.double(), y] for x, y in loader(seed)][:2] for seed in (2, 1)]
    return Point(*parts, list(module.parameters()), divisor=2)


def vector(row: Any, module: Any) -> Tensor:
    pairs = zip(row, module.parameters(), strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])


def value(module: Any, beta: float, sim: str) -> float:
    """The potential itself, as the paper writes it: with the loss that is ascended, less the similarity, all negated."""
    forget, retain = ([[x.double(), y] for x, y in loader(seed)][:2] for seed in (2, 1))
    ascended = -sum(forget_loss(module, b) for b in forget) / 2
    kept = sum(retain_loss(module, b) for b in retain) / 2
    params = list(module.parameters())
    up, down = (
        vector(torch.autograd.grad(loss, params, retain_graph=True, allow_unused=True), module)
        for loss in (ascended, kept)
    )
    cosine = F.cosine_similarity(up, down, dim=0)
    return -(ascended - beta * (cosine if sim == "cos" else cosine**2)).item()


def along(module: Any, direction: Tensor, function: Callable[[], float], step: float = 1e-5) -> float:
    """Directional derivative by central differences."""
    start, found = nn.utils.parameters_to_vector(module.parameters()).detach(), []
    for sign in (1, -1):
        nn.utils.vector_to_parameters(start + sign * step * direction, module.parameters())
        found.append(function())
    nn.utils.vector_to_parameters(start, module.parameters())
    return (found[0] - found[1]) / (2 * step)


@BOTH
@pytest.mark.parametrize(("beta", "sim"), [(0.0, "cos2"), (2.0, "cos2"), (2.0, "cos")])
def test_gradients_are_the_derivatives(curvature: str, beta: float, sim: Any) -> None:
    module = SomebodysModule().double()
    kind, potential, point = CURVATURES[curvature](), potential_of(module, beta, sim), point_of(module)
    row, losses = kind.gradient(potential, point)
    assert losses.shape == (2,)
    g = vector(row, module)
    h = vector(kind.norm_gradient(potential, point, row), module)
    exact = curvature == "double backward"
    for seed in range(3):
        d = F.normalize(torch.randn(len(g), generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=0)
        assert float(g @ d) == pytest.approx(
            along(module, d, lambda: value(module, beta, sim)), abs=1e-8 if exact else 1e-5
        )

        def squared() -> float:
            return float(vector(DoubleBackward().gradient(potential, point)[0], module).square().sum())

        near = 1e-8 if exact and not beta else 1e-3  # the third derivative is a difference
        assert float(h @ d) == pytest.approx(along(module, d, squared), abs=near, rel=near)
    assert h.norm() > 1e-2  # not a dead penalty


@BOTH
def test_passes_move_nothing_of_theirs(curvature: str) -> None:
    module = HostileModule()
    losses = [lambda batch, s=s: s * F.cross_entropy(module(batch[0]), batch[1]) for s in (-1, 1)]
    potential = Potential(GradientEngine(module), *losses, 1.0, "cos2")
    point = Point(list(loader(2))[:1], list(loader(1))[:1], list(module.parameters()), divisor=1)
    before = {name: t.clone() for name, t in module.state_dict().items()}
    state = torch.get_rng_state()
    kind = DoubleBackward() if curvature == "double backward" else FiniteDifference()
    row, _ = kind.gradient(potential, point)
    kind.norm_gradient(potential, point, row)
    assert all(torch.equal(t, before[name]) for name, t in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert module.calls == 0
    assert all(p.grad is None for p in module.parameters())


def test_double_backward_goes_through_attention() -> None:
    """Fused kernels have no second derivative."""
    attention = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    batch = torch.randn(3, 4, 8)
    losses = [lambda x: attention(x).square().mean(), lambda x: attention(x).sin().mean()]
    potential = Potential(GradientEngine(attention), *losses, 1.0, "cos2")
    point = Point([batch], [batch], list(attention.parameters()), divisor=1)
    rows = {}
    for name, kind in (("exact", DoubleBackward()), ("near", FiniteDifference())):
        row, _ = kind.gradient(potential, point)
        rows[name] = vector(kind.norm_gradient(potential, point, row), attention)
    assert F.cosine_similarity(rows["exact"], rows["near"], dim=0) > 0.99
    assert rows["exact"].norm() > 1e-3


# Rounds


def by_hand(batches: list[Any], gone: list[Any], inner: int, lr: float, outer: int, rho: float = 0.0) -> Any:
    """Ascent of ``inner`` normalised steps, then ``outer`` steps of descent, with the norm's gradient by autograd."""
    module = Plain()
    params = list(module.parameters())
    optimizer = module.configure_optimizers()
    for step, (retain, forget) in enumerate(zip(batches, gone, strict=True)):
        for _ in range(inner if step % outer == 0 else 0):
            grads = torch.autograd.grad(forget_loss(module, forget), params, allow_unused=True)
            g, theta = vector(grads, module), nn.utils.parameters_to_vector(params).detach()
            if g.norm():
                nn.utils.vector_to_parameters(theta - lr * theta.norm() * g / g.norm(), params)
        optimizer.zero_grad()
        grads = torch.autograd.grad(forget_loss(module, forget), params, create_graph=True, allow_unused=True)
        norm = sum(g.square().sum() for g in grads if g is not None)
        (retain_loss(module, retain) + rho * norm).backward()
        optimizer.step()
    return module


@pytest.mark.parametrize("rho", [0.0, 0.05])
@pytest.mark.parametrize("outer", [1, 2])
def test_a_round_is_ascent_then_descent(outer: int, rho: float) -> None:
    """With neither term it is ascent, repeated, then one step of the fit's own."""
    unlearn = forgetting(outer_steps=outer, rho=rho, curvature=DoubleBackward())
    module, trainer = fit(unlearn, module=Plain(), max_epochs=1)
    assert trainer.global_step == 6
    expected = by_hand(list(loader(seed=1)), forget_batches(6), 3, 0.01, outer, rho)
    for a, b in zip(module.parameters(), expected.parameters(), strict=True):
        assert_close(a, b, rtol=0, atol=3e-6)


def forget_batches(steps: int) -> list[Any]:
    """As `Unlearn` takes them."""
    stream = ForgetStream(loader(seed=2), seed=0)
    return [next(stream) for _ in range(steps)]


@BOTH
def test_where_the_bound_is_reached_the_fit_is_that_of_the_retain_data(curvature: str) -> None:
    """The cosine with a gradient of zeros has no gradient."""
    reached = Bounded(GradientAscent(), bound=0.01)
    settings = {"beta": 1.0, "rho": 1.0, "inner_steps": 2, "curvature": CURVATURES[curvature]()}
    module, _ = fit(BilevelUnlearn(reached, forget=loader(seed=2), **settings), max_epochs=1)
    plain, _ = fit(max_epochs=1)
    assert same(module, plain)


def test_several_micro_batches_make_one_step() -> None:
    unlearn = forgetting(beta=0.5, rho=1e-3)
    _, trainer = fit(unlearn, accumulate_grad_batches=3)
    assert trainer.global_step == 4
    assert (
        unlearn._batches.position == 12
    )  # as many as retain micro-batches: those of the inner steps are not taken twice


def test_what_it_logs_is_that_of_unlearn() -> None:
    _, trainer = fit(forgetting(beta=0.5, rho=1e-3))
    names = {"forget", "retain", "forget_norm", "retain_norm", "cosine", "realised"}
    assert {f"unlearn/{name}" for name in names} <= set(trainer.callback_metrics)


@pytest.mark.parametrize("order", [1, -1])
def test_the_original_is_seen_before_the_first_inner_step(order: int) -> None:
    check = RecoveryCheck({"int4": Quantize(bits=4)})
    unlearn = BilevelUnlearn(NPO(), forget=loader(seed=2, n=12), inner_lr=0.05)
    fit(*[unlearn, check][::order])
    (first, *_) = levels(check)
    assert first == (0, pytest.approx(probability_by_hand(SomebodysModule("sgd")), abs=1e-6))


@pytest.mark.parametrize("kwargs", [{"pattern": ["head"]}, {"selector": Random(), "choice": TopShare(0.3)}])
def test_inner_steps_keep_to_restrictions(kwargs: Any) -> None:
    only, start = TrainOnly(**kwargs), SomebodysModule("sgd")
    module, _ = fit(forgetting(inner_lr=0.1), only)
    for p, before in zip(module.parameters(), start.parameters(), strict=True):
        stays = torch.full_like(p, only._mask.stays(p)).bool()
        if (trained := only._mask.elements(p)) is not None:
            stays = ~trained
        assert torch.equal(p[stays], before[stays])
    assert not same(module, start)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
@pytest.mark.parametrize("step", [3, 6])
def test_a_resumed_fit_equals_an_uninterrupted_one(step: int, tmp_path: Path) -> None:
    def run(folder: str, **kwargs: Any) -> Any:
        saved = ModelCheckpoint(tmp_path / folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
        unlearn = BilevelUnlearn(NPO(), beta=0.5, inner_lr=0.01, outer_steps=2)
        batches = ForgetRetainData(retain=loader(seed=1), forget=loader(seed=2), order=CyclicOrder())
        module = SomebodysModule("adamw")
        return fit(unlearn, saved, enable_checkpointing=True, module=module, batches=batches, **kwargs)[0]

    whole = run("whole")
    assert same(whole, run("again", ckpt_path=tmp_path / "whole" / f"step={step}.ckpt"))


@pytest.mark.parametrize("beside", [StepGuard, NeuralVariability])
def test_what_sees_the_optimizers_steps_alone_is_refused(beside: Any) -> None:
    with pytest.raises(NotImplementedError, match=f"Found `{beside.__name__}`"):
        fit(forgetting(), beside())


SMALL_CHANGES = [lambda: forgetting(inner_lr=1e-3), lambda: PenalizedUnlearn(GradientAscent(), forget=loader(2))]


@pytest.mark.parametrize("kind", SMALL_CHANGES)
def test_weights_that_would_swallow_small_changes_are_refused(kind: Any) -> None:
    def converted(seed: int) -> Any:
        x, y = examples(seed).tensors
        return DataLoader(TensorDataset(x.bfloat16(), y), batch_size=4)

    unlearn = kind()
    unlearn.forget = converted(2)
    with pytest.raises(ValueError, match="Found weights in torch.bfloat16"):
        fit(unlearn, module=SomebodysModule("sgd").bfloat16(), batches=converted(1), precision="bf16-true")


ERRORS = [
    ({"beta": -1}, "`beta` should be"),
    ({"rho": float("nan")}, "`rho` should be"),
    ({"inner_steps": 0}, "`inner_steps` should be"),
    ({"inner_lr": 0}, "`inner_lr` should be"),
    ({"outer_steps": 1.5}, "`outer_steps` should be"),
    ({"sim": "dot"}, "`sim` should be"),
]


@pytest.mark.parametrize(("kwargs", "message"), ERRORS)
def test_wrong_settings_are_refused(kwargs: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BilevelUnlearn(NPO(), **kwargs)


def test_unbounded_ascent_with_the_term_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="should be bounded"):
        fit(BilevelUnlearn(GradientAscent(), forget=loader(seed=2)))


# The evidence for the defaults


def blobs(n: int, seed: int, *, wrong: bool = False) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(CLASSES, 20, generator=torch.Generator().manual_seed(99))
    y = torch.randint(0, CLASSES, (n,), generator=generator)
    x = centers[y] + torch.randn(n, 20, generator=generator)
    return [x, (y + 1 + torch.randint(0, CLASSES - 1, (n,), generator=generator)) % CLASSES if wrong else y]


class Memoriser(pl.LightningModule):
    """Knows wrong labels by heart."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.net = nn.Sequential(nn.Linear(20, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return retain_loss(self, batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def share_remembered(seed: int, objective: Any, rho: float) -> tuple[float, float]:
    """Of the wrong labels that must go, and of the right ones that must stay, after forty rounds."""
    kept, gone = blobs(200, seed), blobs(40, seed + 100, wrong=True)
    module = Memoriser(seed)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        retain_loss(module, [torch.cat(pair) for pair in zip(kept, gone, strict=True)]).backward()
        optimizer.step()

    def remembered(batch: list[Tensor]) -> float:
        with torch.no_grad():
            return float((module(batch[0]).argmax(-1) == batch[1]).float().mean())

    assert remembered(gone) == 1
    forget = DataLoader(TensorDataset(*gone), batch_size=40)
    unlearn = BilevelUnlearn(objective, forget=forget, beta=0.0, rho=rho, inner_lr=3e-3, outer_steps=5)
    batches = DataLoader(TensorDataset(*kept), batch_size=200)
    fit(unlearn, module=module, batches=batches, max_steps=200, max_epochs=-1, gradient_clip_val=1.0)
    return remembered(gone), remembered(kept)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*should be bounded")
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_term_holds_unbounded_ascent_back_and_bounded_forgetting_does_not_mind(seed: int) -> None:
    assert share_remembered(seed, GradientAscent(), rho=0.0)[0] < 0.25
    assert share_remembered(seed, GradientAscent(), rho=0.1)[0] > 0.6
    for rho in (0.0, 1e-3, 0.1):
        gone, kept = share_remembered(seed, NPO(1.0), rho)
        assert gone < 0.2
        assert kept > 0.95


# A penalty on the norm of the forget gradient


def largest_difference(a: nn.Module, b: nn.Module) -> float:
    return max((x - y).abs().max().item() for x, y in zip(a.parameters(), b.parameters(), strict=True))


def penalized_by_hand(penalty: float) -> Any:
    module = Plain()
    params, optimizer = list(module.parameters()), module.configure_optimizers()
    for retain, forget in zip(loader(seed=1), forget_batches(6), strict=True):
        optimizer.zero_grad()
        loss = forget_loss(module, forget)
        grads = torch.autograd.grad(loss, params, create_graph=True, allow_unused=True)
        norm = torch.stack([g.square().sum() for g in grads if g is not None]).sum().sqrt()
        (retain_loss(module, retain) + loss + penalty * norm).backward()
        optimizer.step()
    return module


@pytest.mark.parametrize("penalty", [0.0, 0.5])
def test_a_penalty_is_that_of_autograd(penalty: float) -> None:
    """Published code adds the norm by `.item()`: its gradient is zero. Ours moves the fit."""
    unlearn = PenalizedUnlearn(Bounded(GradientAscent(), BOUND), penalty, forget=loader(seed=2))
    module, _ = fit(unlearn, module=Plain(), max_epochs=1)
    for a, b in zip(module.parameters(), penalized_by_hand(penalty).parameters(), strict=True):
        assert_close(a, b, rtol=0, atol=1e-6 if penalty == 0 else 2e-3)
    plain, _ = fit(Unlearn(Bounded(GradientAscent(), BOUND), forget=loader(seed=2)), module=Plain(), max_epochs=1)
    moved = largest_difference(module, plain)
    assert moved < 1e-6 if penalty == 0 else moved > 0.02


class OneStep(Attack):
    """One step of a length towards the knowledge."""

    family, unit, needs_data = "test", "step", "judged"

    def __init__(self, length: float) -> None:
        self.length = length

    def __call__(self, network: nn.Module, *, batches: Any = (), loss: Any = None, engine: Any = None) -> Any:
        @contextmanager
        def stepped() -> Any:
            params = list(network.parameters())
            row, _ = engine.row(loss, list(batches), params)
            before = [p.detach().clone() for p in params]
            g = vector(row, network)
            nn.utils.vector_to_parameters(
                nn.utils.parameters_to_vector(params).detach() - self.length * g / g.norm(), params
            )
            yield iter([1])
            with torch.no_grad():
                for p, value in zip(params, before, strict=True):
                    p.copy_(value)

        return stepped()


def test_under_one_normalised_step_is_a_penalty_of_half_its_length() -> None:
    """For one optimizer step: afterwards the weights have another length."""
    theta = nn.utils.parameters_to_vector(Plain().parameters()).norm().item()
    under = Unlearn(GradientAscent(), forget=loader(seed=2), under={"step": OneStep(0.3)})
    penalized = PenalizedUnlearn(GradientAscent(), penalty=0.15, size=0.3 / theta, forget=loader(seed=2))
    a, b, plain = (
        fit(c, module=Plain(), max_steps=1)[0] for c in (under, penalized, Unlearn(GradientAscent(), forget=loader(2)))
    )
    for x, y in zip(a.parameters(), b.parameters(), strict=True):
        assert_close(x, y, rtol=0, atol=1e-6)
    assert largest_difference(a, plain) > 1e-4


@pytest.mark.parametrize("kind", ["bilevel", "penalized"])
def test_differences_are_taken_without_autocast(kind: str) -> None:
    """In bf16 the rounding of a gradient is larger than the difference of two that are near each other."""
    seen: dict[str, set[torch.dtype]] = {"fit": set(), "ours": set()}

    class Sees(SomebodysModule):
        who = "ours"

        def forward(self, x: Tensor) -> Tensor:
            logits = super().forward(x)
            seen[self.who].add(logits.dtype)
            return logits

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self.who = "fit"
            loss = super().training_step(batch, batch_idx)
            self.who = "ours"
            return loss

    unlearn = FITS[kind](loader(seed=2))

    class Starts(pl.Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
            if not batch_idx:
                seen["ours"].clear()  # how the network is read was decided before

    fit(Starts(), unlearn, module=Sees("sgd"), precision="bf16-mixed", max_epochs=1)
    assert seen == {"fit": {torch.bfloat16}, "ours": {torch.float32}}


def test_a_penalty_and_attacks_are_not_both_taken() -> None:
    with pytest.raises(ValueError, match="Found `under`"):
        PenalizedUnlearn(GradientAscent(), under={"int4": Quantize(bits=4)})


# Several processes


def sharded_fit(kind: str | None, rank: int, world_size: int, make: Any) -> dict[str, Tensor]:
    module_class, strategy = STRATEGIES[kind] if kind else (SomebodysModule, lambda: "auto")
    module = module_class("sgd").double()
    forget = DataLoader(data(2, 16, True), batch_size=8 // world_size)
    settings = {"use_distributed_sampler": False, "max_epochs": 2}
    trainer = quiet(strategy=strategy(), devices=world_size, callbacks=[make(forget)], **settings)
    trainer.fit(module, sharded_loader(data(1, 32, True), rank, world_size))
    return whole(module, kind)


FITS: dict[str, Any] = {
    "bilevel": lambda forget: BilevelUnlearn(
        Bounded(GradientAscent(), BOUND), forget=forget, beta=0.5, rho=0.01, inner_lr=0.01, outer_steps=2
    ),
    "penalized": lambda forget: PenalizedUnlearn(Bounded(GradientAscent(), BOUND), 0.2, forget=forget),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
@pytest.mark.parametrize("name", FITS)
def test_two_processes_equal_one(name: str, kind: str) -> None:
    expected = sharded_fit(None, 0, 1, FITS[name])
    for found in run_ranks(lambda rank, world: sharded_fit(kind, rank, world, FITS[name])):
        for key, value_there in expected.items():
            assert_close(found[key], value_there, rtol=0, atol=1e-6, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.slow
def test_double_backward_is_refused_in_several_processes() -> None:
    def run(rank: int, world: int) -> bool:
        make = lambda forget: BilevelUnlearn(NPO(), forget=forget, curvature=DoubleBackward())  # noqa: E731
        with pytest.raises(NotImplementedError, match="Use `FiniteDifference"):
            sharded_fit("ddp", rank, world, make)
        return True

    assert run_ranks(run) == [True, True]
