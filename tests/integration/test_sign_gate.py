"""`SignGate`: no coordinate of the step that the optimizer really took raises the retain loss."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from _guarded_fits import FITS, Module, Outside, fit, unlearn
from _language_models import family, language
from _modules import SomebodysModule, examples, loader, quiet
from _private_optimizers import OWN, AfterUsersStep
from _scaled import scaled
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_unlearn import (
    Bounded,
    GradientAscent,
    GradientTransform,
    SignGate,
    StepGuard,
    SubspaceGuard,
    TrainOnly,
    Unlearn,
    UnlearningModule,
)
from lightning_unlearn.guards import History, InputSubspace, NoChange
from lightning_unlearn.selectors import Random, TopShare
from lightning_unlearn.transforms import Stage

# Each optimizer in a plain fit, and every fit with one of them.
GRID = [*((optimizer, "plain") for optimizer in Module.KINDS), *(("adamw", name) for name in FITS if name != "plain")]


class GateLast(SignGate):
    """In the order that we do not take: after the guard."""

    stage = Stage.PROXIMAL


def uphill_shares(seen: Outside) -> list[float]:
    """Of each step: among the coordinates that moved, the share that moved uphill."""
    found = []
    for rows, change in zip(seen.gradients, seen.changes, strict=True):
        gradient = torch.cat([sum(parts).flatten() for parts in zip(*rows, strict=True)])
        step = torch.cat([c.flatten() for c in change])
        # The gradient is computed a second time here, so the sign of what is nearly zero is not known.
        known = gradient.abs() > 1e-5 * gradient.abs().max()
        found.append(float((known & (gradient * step > 0)).sum() / step.count_nonzero()))
    return found


def raised(seen: Outside) -> int:
    """In how many steps the retain loss rises to first order."""
    return sum(breach > 0 for breach in seen.breaches("NoIncrease", "global"))


def sixty_steps(*callbacks: pl.Callback) -> Outside:
    seen = Outside()
    module = Module("adamw")
    module.configure_optimizers = lambda: torch.optim.AdamW(module.parameters(), lr=1e-2, weight_decay=0.1)  # type: ignore[method-assign]
    quiet(callbacks=[seen, unlearn(), *callbacks], max_epochs=10).fit(module, loader(seed=1))
    assert len(seen.changes) == 60
    return seen


def test_in_sixty_adamw_steps_nothing_is_uphill_where_a_third_is_without() -> None:
    gated, plain = sixty_steps(SignGate()), sixty_steps()
    assert max(uphill_shares(gated)) == 0
    assert raised(gated) == 0
    assert sum(uphill_shares(plain)) / 60 > 0.3
    assert raised(plain) > 10


class OnlyWhereRetainAgrees(GradientTransform):
    """The same rule on the gradient: the forget gradient is dropped wherever it is against the retain gradient."""

    def of(self, gradient: Tensor, param: Tensor) -> Tensor:
        return gradient if param.grad is None else gradient * (gradient * param.grad > 0)


@pytest.mark.parametrize(("optimizer", "least", "most"), [("adamw", 0.25, 0.45), ("sgd", 0.0, 0.0)])
def test_a_mask_on_the_gradient_holds_under_sgd_and_is_lost_under_adam(
    optimizer: str, least: float, most: float
) -> None:
    """`research/methods-c.md`, 0.4: a third of the coordinates still move uphill: Adam steps along an average."""
    seen = Outside()
    quiet(callbacks=[seen, unlearn(transforms=[OnlyWhereRetainAgrees()])], max_epochs=10).fit(
        Module(optimizer), loader(seed=1)
    )
    shares = uphill_shares(seen)
    assert len(shares) == 60
    assert least <= sum(shares) / 60 <= most


@pytest.mark.parametrize(("optimizer", "name"), GRID)
def test_no_coordinate_is_uphill_under_any_optimizer(optimizer: str, name: str) -> None:
    found = {}
    for gates in ([SignGate()], []):
        seen = Outside(mixed=name == "bf16-mixed")
        fit(seen, unlearn(), *gates, optimizer=optimizer, **FITS[name])
        found[len(gates)] = uphill_shares(seen)
    assert max(found[1]) == 0
    assert max(found[0]) > 0.1


def test_under_a_gradient_scaler_the_sign_is_that_of_the_unscaled_gradient() -> None:
    seen = Outside()
    fit(seen, unlearn(), SignGate(tau=0.05), **scaled(2.0**10))  # fp16 rounds small gradients otherwise than we do
    gradients = [torch.cat([sum(parts).flatten() for parts in zip(*rows, strict=True)]) for rows in seen.gradients]
    for gradient, change in zip(gradients, seen.changes, strict=True):
        step = torch.cat([c.flatten() for c in change])
        known = gradient.abs() > 0.1 * gradient[gradient != 0].square().mean().sqrt()
        assert int(known.sum()) > 100
        assert not (known & (gradient * step > 0)).any()


def test_bfloat16_weights_round_nothing_uphill() -> None:
    class Low(SomebodysModule):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return torch.nn.functional.cross_entropy(self(batch[0].bfloat16()), batch[1])

    class Kept(pl.Callback):
        """The fit's own gradient, and the step."""

        shares: list[float] = []

        def on_after_backward(self, trainer: Any, module: Any) -> None:
            params = [p for p in module.parameters() if p.grad is not None]
            self.kept = [(p, p.detach().clone(), p.grad.clone()) for p in params]

        def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
            self.shares += [float(((p.detach() - w) * g > 0).sum()) for p, w, g in self.kept]

    low, seen = Low("adamw").bfloat16(), Kept()
    inputs, labels = examples(seed=2).tensors
    forget = DataLoader(TensorDataset(inputs.bfloat16(), labels), batch_size=4)
    forgetting = Unlearn(Bounded(GradientAscent(), bound=4.0), forget=forget, weight=3.0)
    quiet(callbacks=[seen, forgetting, SignGate()], max_epochs=2).fit(low, loader(seed=1))
    assert len(seen.shares) == 12 * 6
    assert sum(seen.shares) == 0


def test_what_is_logged_is_what_one_measures() -> None:
    seen = Outside()
    _, trainer = fit(seen, unlearn(), SignGate())
    logged = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("gate/")}
    step = torch.cat([c.flatten() for c in seen.changes[-1]])
    gradient = torch.cat([g.flatten() for g in seen.gradients[-1][0]])
    assert 0.2 < logged["gate/closed"] < 0.8
    assert 0 < logged["gate/kept"] < 1
    assert logged["gate/retain_after"] == pytest.approx(float(step @ gradient), rel=1e-3)
    assert logged["gate/retain_after"] < min(0, logged["gate/retain_before"])


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
def test_rows_that_the_retain_data_do_not_touch_are_free() -> None:
    class Words(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                self.table, self.head = torch.nn.Embedding(10, 6), torch.nn.Linear(6, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.table(x))

    class Reads(SomebodysModule):
        def __init__(self) -> None:
            super().__init__()
            self.words = Words()

        def forward(self, x: Tensor) -> Tensor:
            return self.words(x)

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.words.parameters(), lr=1e-2, weight_decay=0.1)

    def batches(words: list[int]) -> DataLoader[Any]:
        tokens = torch.tensor(words * 4)
        return DataLoader(TensorDataset(tokens, tokens % 5), batch_size=len(words))

    def moved(*gates: pl.Callback) -> Tensor:
        module = Reads()
        start = module.words.table.weight.detach().clone()
        forgetting = Unlearn(Bounded(GradientAscent(), bound=9.0), forget=batches([6, 7, 8, 9]))
        quiet(callbacks=[forgetting, *gates]).fit(module, batches([0, 1, 2, 3, 4, 5]))
        return module.words.table.weight.detach() - start

    gated = moved(SignGate())
    assert bool((gated[6:].abs() > 0.01).all())  # 4 steps of 0.01, each whole
    assert bool((moved()[6:] != 0).all())


def differ(one: Any, other: Any) -> bool:
    return any(not torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


# Beside other transforms of the step


@pytest.mark.parametrize(("rule", "length"), [(NoChange(), 1), (NoChange(), 4), (None, 4)], ids=repr)
def test_a_guard_of_several_losses_keeps_its_promise_because_it_comes_last(rule: Any, length: int) -> None:
    worst = {}
    for gate in (SignGate(), GateLast()):
        seen = Outside()
        fit(seen, unlearn(), gate, StepGuard(rule, History(length)))
        worst[type(gate)] = max(seen.breaches("NoChange" if rule else "NoIncrease", "global", length))
    assert worst[SignGate] < 1e-6
    assert worst[GateLast] > 1e-2


def test_a_guard_of_the_same_loss_finds_nothing_to_correct() -> None:
    class Active(pl.Callback):
        seen: list[float] = []

        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            self.seen.append(float(trainer.callback_metrics["guard/active"]))

    active = Active()
    gated, _ = fit(unlearn(), SignGate())
    both, _ = fit(unlearn(), StepGuard(), SignGate(), active)
    assert active.seen == [0.0] * 12
    assert not differ(gated, both)
    assert differ(gated, fit(unlearn(), StepGuard())[0])


@pytest.mark.parametrize(
    "only", [TrainOnly("head"), TrainOnly(selector=Random(), choice=TopShare(0.3))], ids=["name", "%"]
)
def test_beside_a_mask_both_hold(only: TrainOnly) -> None:
    seen = Outside()
    module, _ = fit(seen, unlearn(), SignGate(), only)
    assert max(uphill_shares(seen)) == 0
    still = [float((c == 0).double().mean()) for c in seen.changes[-1]]
    assert max(still) == 1 or min(still) > 0.5
    assert differ(module, Module("adamw"))


def test_a_projection_that_would_mix_coordinates_is_refused() -> None:
    message = "`SignGate` should choose coordinates one by one. Found `SubspaceGuard` beside it"
    with pytest.raises(NotImplementedError, match=message):
        fit(unlearn(), SubspaceGuard(InputSubspace(0.8)), SignGate())


@pytest.mark.parametrize("own", OWN)
def test_of_two_optimizers_forgettings_own_step_is_gated_and_the_users_is_not_touched(own: str) -> None:
    class BothSteps(AfterUsersStep):
        """The weights before, between and after the two steps, and the retain gradient."""

        def on_train_start(self, trainer: Any, module: Any) -> None:
            super().on_train_start(trainer, module)
            self.before: list[Any] = []
            self.ends: list[Any] = []
            self.gradients: list[Any] = []

        def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
            self.before.append([p.detach().clone() for p in module.parameters()])
            self.gradients.append(
                [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in module.parameters()]
            )

        def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
            self.ends.append([p.detach().clone() for p in module.parameters()])

    def steps(*gates: pl.Callback) -> BothSteps:
        seen = BothSteps()
        quiet(callbacks=[seen, unlearn(optimizer=OWN[own]), *gates]).fit(Module("momentum"), loader(seed=1))
        assert len(seen.ends) == len(seen.weights) == 6
        return seen

    def uphill(seen: BothSteps) -> int:
        each = zip(seen.ends, seen.weights, seen.gradients, strict=True)
        parts = [(a, b, g) for end, between, row in each for a, b, g in zip(end, between, row, strict=True)]
        return sum(int(((a - b).sign() * g.sign() > 0).sum()) for a, b, g in parts)

    gated, plain = steps(SignGate()), steps()
    assert uphill(gated) == 0
    assert uphill(plain) > 100
    # The first step of the user's optimizer starts at the same weights: it is the same, to the bit.
    assert all(torch.equal(a, b) for a, b in zip(gated.weights[0], plain.weights[0], strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(gated.ends[0], plain.ends[0], strict=True))


# Its settings


def test_the_average_gates_by_the_past() -> None:
    class Averaged(Outside):
        def on_train_end(self, trainer: Any, module: Any) -> None:
            mean = None
            for number, rows in enumerate(self.gradients):
                new = [sum(parts) for parts in zip(*rows, strict=True)]
                mean = new if mean is None else [0.8 * m + 0.2 * g for m, g in zip(mean, new, strict=True)]
                self.gradients[number] = [mean]

    fresh, averaged = Outside(), Averaged()
    fit(averaged, unlearn(), SignGate(average=0.8))
    assert max(uphill_shares(averaged)) == 0
    fit(fresh, unlearn(), SignGate(average=0.8))
    assert max(uphill_shares(fresh)) > 0.02  # another promise


def test_small_gradients_are_free_with_a_dead_zone() -> None:
    seen = Outside()
    fit(seen, unlearn(), SignGate(tau=0.5))
    free = 0
    for rows, change in zip(seen.gradients, seen.changes, strict=True):
        gradient, step = torch.cat([g.flatten() for g in rows[0]]), torch.cat([c.flatten() for c in change])
        least = 0.5 * gradient[gradient != 0].square().mean().sqrt()
        assert not (gradient * step > 0)[gradient.abs() > 1.001 * least].any()
        free += int((gradient * step > 0)[gradient.abs() < 0.999 * least].sum())
    assert free > 100


def test_a_retain_set_of_its_own_is_what_the_gate_looks_at() -> None:
    own, _ = fit(unlearn(), SignGate(retain=loader(seed=5)))
    assert differ(own, fit(unlearn(), SignGate())[0])
    # Without forgetting, too: an ordinary fine-tuning that may not harm it.
    tuned, _ = fit(SignGate(retain=loader(seed=5)))
    assert differ(tuned, fit()[0])


def test_nothing_to_protect_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`SignGate` should find what to protect.* Use `SignGate\(retain=...\)`"):
        fit(SignGate())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"average": 1.0}, "`average` should be below 1: at 1 no new gradient counts. Found `average = 1.0`"),
        ({"average": -0.1}, "`average` should be finite and not negative"),
        ({"tau": float("nan")}, "`tau` should be finite and not negative. Found `tau = nan`"),
    ],
    ids=str,
)
def test_wrong_settings_are_refused(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SignGate(**settings)


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
def test_the_factors_of_an_adapter_are_gated() -> None:
    class Kept(pl.Callback):
        uphill = 0

        def on_after_backward(self, trainer: Any, module: Any) -> None:
            params = [p for p in module.parameters() if p.grad is not None]
            self.kept = [(p, p.detach().clone(), p.grad.clone()) for p in params]

        def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
            self.uphill += sum(int(((p.detach() - w) * g > 0).sum()) for p, w, g in self.kept)

    found = []
    for gates in ([SignGate()], []):
        seen = Kept()
        forgetting = Unlearn(Bounded(GradientAscent(), bound=8.0), forget=language(1), weight=3.0)
        trained = UnlearningModule(family("llama", lora=True))
        quiet(callbacks=[seen, forgetting, *gates], max_steps=3).fit(trained, language(0))
        found.append(seen.uphill)
    assert found[0] == 0
    assert found[1] > 10
