"""`Unlearn(transforms=[...])` does what a loop written by hand does, under every way of running a fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from _language_models import family, language
from _modules import SomebodysModule, examples, loader, quiet
from _private_optimizers import OWN
from _ranks import run_ranks
from _scaled import scaled
from _sharded_fits import STRATEGIES, FSDP1OnCPU, whole
from _tensor_parallel import Plain, TensorParallel
from _tensor_parallel import strategy as tensor_parallel
from _vantage import Shift
from jsonargparse import ArgumentParser
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils.data import DataLoader, DistributedSampler

from lightning_unlearn import Bounded, CrossEntropy, GradientAscent, Orthogonal, Unlearn, UnlearningModule
from lightning_unlearn.data import ForgetStream
from lightning_unlearn.transforms import GradientTransform, RowMask, SpectralCollapse

BOUND = 3.0
SHARE = 0.3


def masked_by_hand(gradient: Tensor) -> Tensor:
    """Thresholded at the norm of the last unit that stays."""
    norms = gradient.flatten(1).norm(dim=1) if gradient.dim() > 1 else gradient.abs()
    kept = -int(-len(norms) * SHARE // 1)
    least = norms.sort(descending=True).values[kept - 1]
    return gradient * (norms >= least).view(-1, *[1] * (gradient.dim() - 1))


def collapsed_by_hand(gradient: Tensor) -> Tensor:
    """Soft on both sides: the two largest singular values turned upside down at the second."""
    if gradient.dim() < 2:
        return gradient
    left, values, right = torch.linalg.svd(gradient, full_matrices=False)
    values[0] = values[1] ** 2 / values[0]
    return left @ torch.diag(values) @ right


# Each transform, and what it does, written by hand.
BY_HAND: dict[str, tuple[Callable[[], GradientTransform], Callable[[Tensor], Tensor]]] = {
    "RowMask": (lambda: RowMask(SHARE), masked_by_hand),
    "SpectralCollapse": (lambda: SpectralCollapse(q=2, kind="both"), collapsed_by_hand),
}
each_transform = pytest.mark.parametrize("name", BY_HAND)


def hand_written(
    batches: list[Any], accumulate: int, own: str | None, transform: Callable[[Tensor], Tensor]
) -> list[Tensor]:
    """Two backward passes; the second one's gradient is changed, and added or given to an optimizer of its own."""
    module = SomebodysModule("sgd")
    params = list(module.parameters())
    setup = module.configure_optimizers()
    optimizer, scheduler = setup["optimizer"], setup["lr_scheduler"]["scheduler"]
    private = OWN[own](params) if own else None
    retain_loss, forget_loss = torch.zeros(()), torch.zeros(())
    for number, (retain, forget) in enumerate(batches, start=1):
        retain_loss = retain_loss + F.cross_entropy(module(retain[0]), retain[1]) / accumulate
        forget_loss = forget_loss + torch.relu(BOUND - F.cross_entropy(module(forget[0]), forget[1])) / accumulate
        if number % accumulate and number != len(batches):
            continue
        kept = torch.autograd.grad(retain_loss, params, allow_unused=True)
        gone = [
            None if g is None else transform(g) for g in torch.autograd.grad(forget_loss, params, allow_unused=True)
        ]
        for p, a, b in zip(params, kept, gone, strict=True):
            p.grad = a if a is None or own else a + b
        optimizer.step()
        if private is not None:
            for p, b in zip(params, gone, strict=True):
                p.grad = b
            private.step()
        scheduler.step()
        retain_loss, forget_loss = torch.zeros(()), torch.zeros(())
    return params


def callback(**kwargs: Any) -> Unlearn:
    given: dict[str, Any] = {"forget": loader(seed=2, n=10), "seed": 5, "transforms": [RowMask(SHARE)]}
    return Unlearn(Bounded(GradientAscent(), bound=BOUND), **{**given, **kwargs})


def fit(unlearn: Unlearn, **kwargs: Any) -> tuple[SomebodysModule, dict[str, float]]:
    module = SomebodysModule("sgd")
    trainer = quiet(callbacks=[unlearn], **kwargs)
    trainer.fit(module, loader(seed=1))
    return module, {k: float(v) for k, v in trainer.callback_metrics.items()}


def far_apart(one: nn.Module, other: nn.Module) -> float:
    return max((a - b).abs().max().item() for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("own", [None, "momentum", "adamw"])
@pytest.mark.parametrize("accumulate", [1, 3])
@each_transform
def test_equals_a_loop_in_which_it_is_applied_by_hand(name: str, accumulate: int, own: str | None) -> None:
    """With accumulation it is applied once, to the sum: of single micro-batches the result would be another."""
    stream = ForgetStream(loader(seed=2, n=10), seed=5)
    build, by_hand = BY_HAND[name]
    expected = hand_written([(batch, next(stream)) for batch in loader(seed=1)], accumulate, own, by_hand)

    optimizer = OWN[own] if own else None
    transformed = callback(optimizer=optimizer, transforms=[build()])
    module, _ = fit(transformed, accumulate_grad_batches=accumulate)
    plain, _ = fit(callback(optimizer=optimizer, transforms=None), accumulate_grad_batches=accumulate)

    for parameter, value in zip(module.parameters(), expected, strict=True):
        assert_close(parameter, value, rtol=0, atol=1e-6)
    assert far_apart(module, plain) > 1e-3  # it does something


def test_masking_nothing_changes_nothing() -> None:
    """The forget gradient is then held by itself before it is added, which rounds no differently."""
    one, _ = fit(callback(transforms=[RowMask(1.0)]))
    other, _ = fit(callback(transforms=None))
    assert far_apart(one, other) < 1e-7


def test_transforms_follow_each_other_in_the_order_of_the_list() -> None:
    class Shift(GradientTransform):
        def of(self, gradient: Tensor, param: Tensor) -> Tensor:
            return gradient + torch.arange(gradient.numel()).view_as(gradient)

    one, _ = fit(callback(transforms=[RowMask(SHARE), Shift()]))
    other, _ = fit(callback(transforms=[Shift(), RowMask(SHARE)]))
    assert far_apart(one, other) > 1e-3


class Seen(GradientTransform):
    """Keeps squared norms, and halves."""

    def __init__(self) -> None:
        self.norms: list[float] = []

    def __call__(self, row: Any, params: Any) -> Any:
        self.norms.append(sum(float(t.square().sum()) for t in row if t is not None) ** 0.5)
        return super().__call__(row, params)

    def of(self, gradient: Tensor, param: Tensor) -> Tensor:
        return gradient / 2


class Gramians(Orthogonal):
    """Remembers what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, gramian: Tensor) -> Tensor:
        self.seen.append(gramian)
        return super().forward(gramian)


@each_transform
def test_a_projector_sees_inner_products_of_the_transformed_gradient(name: str) -> None:
    build, by_hand = BY_HAND[name]
    projector = Gramians()
    fit(callback(transforms=[build()], projector=projector), max_steps=1)
    module = SomebodysModule("sgd")
    params = list(module.parameters())
    rows = []
    for inputs, labels in (next(ForgetStream(loader(seed=2, n=10), seed=5)), next(iter(loader(seed=1)))):
        loss = F.cross_entropy(module(inputs), labels)
        rows.append(torch.autograd.grad(torch.relu(BOUND - loss) if not rows else loss, params, allow_unused=True))
    joined = [
        torch.cat([change(g).flatten() for g in row if g is not None]).double()
        for row, change in zip(rows, (by_hand, lambda g: g), strict=True)
    ]
    expected = torch.stack(joined) @ torch.stack(joined).T
    assert_close(projector.seen[0], expected, rtol=1e-5, atol=1e-8)
    assert float(joined[0].norm()) < 0.95 * float(torch.cat([g.flatten() for g in rows[0] if g is not None]).norm())


@pytest.mark.parametrize("projector", [None, Orthogonal()])
def test_logged_norm_and_cosine_are_of_the_transformed_gradient(projector: Any) -> None:
    seen = Seen()
    _, logged = fit(callback(transforms=[seen], projector=projector), max_steps=1)
    assert logged["unlearn/forget_norm"] == pytest.approx(seen.norms[0] / 2, rel=1e-5)
    _, masked = fit(callback(projector=projector), max_steps=1)
    _, plain = fit(callback(transforms=[], projector=projector), max_steps=1)
    assert masked["unlearn/forget_norm"] < 0.99 * plain["unlearn/forget_norm"]
    assert masked["unlearn/retain_norm"] == pytest.approx(plain["unlearn/retain_norm"], rel=1e-6)
    assert masked["unlearn/cosine"] != pytest.approx(plain["unlearn/cosine"], rel=1e-3)


def test_a_transform_sees_the_gradient_without_the_factor_of_a_gradient_scaler() -> None:
    small, large = Seen(), Seen()
    fit(callback(transforms=[small]), **scaled(1.0))
    fit(callback(transforms=[large]), **scaled(2.0**10))
    assert large.norms == pytest.approx(small.norms, rel=2e-2)
    one, _ = fit(callback(), **scaled(1.0))
    other, _ = fit(callback(), **scaled(2.0**10))
    assert far_apart(one, other) < 1e-3  # fp16 rounds differently at other scales
    plain, _ = fit(callback(transforms=None), **scaled(1.0))
    assert far_apart(one, plain) > 1e-3


def test_an_infinite_gradient_is_refused_by_its_own_error_before_a_transform_sees_it() -> None:
    class Refuses(GradientTransform):
        def of(self, gradient: Tensor, param: Tensor) -> Tensor:
            raise AssertionError("should not be asked")

    class Endless(CrossEntropy):
        def forward(self, student: Any, reference: Any = None) -> Tensor:
            return super().forward(student, reference) + (student.logits * float("inf")).sum().clamp(max=1.0)

    with pytest.raises(FloatingPointError, match=r"should be finite\. Found NaN or infinity"):
        fit(Unlearn(Endless(), forget=loader(seed=2), transforms=[Refuses()]))


class Keep(GradientTransform):
    """Changes nothing, and remembers what it was shown."""

    def __init__(self) -> None:
        self.row: list[Tensor] = []

    def of(self, gradient: Tensor, param: Tensor) -> Tensor:
        self.row.append(gradient.clone())
        return gradient


@each_transform
def test_of_several_vantage_points_the_mean_is_transformed_once(name: str) -> None:
    build, by_hand = BY_HAND[name]
    after = Keep()
    fit(callback(transforms=[build(), after], under={"shift": Shift(0.1)}), max_steps=1)
    module = SomebodysModule("sgd")
    params = [p for n, p in module.named_parameters() if n != "unused"]
    inputs, labels = next(ForgetStream(loader(seed=2, n=10), seed=5))
    rows = []
    for _ in range(2):
        loss = torch.relu(BOUND - F.cross_entropy(module(inputs), labels))
        rows.append(torch.autograd.grad(loss, params))
        with torch.no_grad():
            for p in params:
                p.add_(0.1)
    assert len(after.row) == len(params)
    for found, plain, shifted in zip(after.row, *rows, strict=True):
        assert_close(found, by_hand((plain + shifted) / 2), rtol=1e-4, atol=1e-7)


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
def test_the_factors_of_an_adapter_are_masked_and_the_base_stays() -> None:
    network = family("llama", lora=True)
    base = {n: p.detach().clone() for n, p in network.named_parameters() if not p.requires_grad}
    before, after = Keep(), Keep()
    transforms = [before, RowMask(SHARE), after]
    unlearn = Unlearn(Bounded(GradientAscent(), bound=8.0), forget=language(1), transforms=transforms)
    quiet(callbacks=[unlearn], max_steps=1).fit(UnlearningModule(network), language(0))
    assert all(torch.equal(p, base[n]) for n, p in network.named_parameters() if not p.requires_grad)
    assert len(before.row) == sum(p.requires_grad for p in network.parameters())
    for gradient, masked in zip(before.row, after.row, strict=True):
        assert torch.equal(masked, masked_by_hand(gradient))


class Mean(GradientTransform):
    """A running mean of each gradient's size, taken out of it: a transform with a state."""

    def __init__(self) -> None:
        self.means: dict[int, Tensor] = {}

    def attach(self, module: nn.Module) -> None:
        self.number = {id(p): i for i, p in enumerate(module.parameters())}

    def of(self, gradient: Tensor, param: Tensor) -> Tensor:
        number = self.number[id(param)]
        mean = self.means.get(number, torch.ones(()))
        self.means[number] = 0.5 * mean + 0.5 * gradient.norm()
        return gradient / mean

    def state_dict(self) -> dict[str, Any]:
        return {"means": dict(self.means)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.means = dict(state["means"])


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
def test_collapsing_the_factors_of_an_adapter_is_refused() -> None:
    unlearn = Unlearn(GradientAscent(), forget=language(1), transforms=[SpectralCollapse()])
    with pytest.raises(NotImplementedError, match=r"Found `.*lora_A.default.weight`, a factor of an adapter"):
        quiet(callbacks=[unlearn], max_steps=1).fit(UnlearningModule(family("llama", lora=True)), language(0))


@pytest.mark.parametrize("refresh_every", [1, 4])
def test_kept_directions_resume(refresh_every: int, tmp_path: Path) -> None:
    def collapsing() -> Unlearn:
        return callback(transforms=[SpectralCollapse(q=2, refresh_every=refresh_every)])

    whole_fit, _ = fit(collapsing(), max_epochs=2)  # six steps an epoch: the second begins between two refreshes
    first = quiet(callbacks=[collapsing()])
    first.fit(SomebodysModule("sgd"), loader(seed=1))
    first.save_checkpoint(tmp_path / "first.ckpt")
    torch.load(tmp_path / "first.ckpt", weights_only=True)
    module = SomebodysModule("sgd")
    quiet(callbacks=[collapsing()], max_epochs=2).fit(module, loader(seed=1), ckpt_path=tmp_path / "first.ckpt")
    assert far_apart(module, whole_fit) == 0


def test_a_state_resumes(tmp_path: Path) -> None:
    whole_fit, _ = fit(callback(transforms=[RowMask(SHARE), Mean()]), max_epochs=2)
    first = quiet(callbacks=[callback(transforms=[RowMask(SHARE), Mean()])])
    first.fit(SomebodysModule("sgd"), loader(seed=1))
    first.save_checkpoint(tmp_path / "first.ckpt")
    module, mean = SomebodysModule("sgd"), Mean()
    resumed = quiet(callbacks=[callback(transforms=[RowMask(SHARE), mean])], max_epochs=2)
    resumed.fit(module, loader(seed=1), ckpt_path=tmp_path / "first.ckpt")
    assert far_apart(module, whole_fit) == 0
    assert mean.means


def sharded_fit(name: str, kind: str | None, accumulate: int, world_size: int, rank: int) -> Any:
    module_class, strategy = STRATEGIES[kind] if kind else (SomebodysModule, lambda: "auto")
    retain = examples(1, n=32)
    batch_size = 8 // world_size
    forget = DataLoader(examples(2, n=12), batch_size=batch_size)
    unlearn = callback(forget=forget, transforms=[BY_HAND[name][0]()])
    module = module_class("sgd")
    trainer = quiet(
        strategy=strategy(),
        devices=world_size,
        callbacks=[unlearn],
        accumulate_grad_batches=accumulate,
        use_distributed_sampler=False,
    )
    sampler = DistributedSampler(retain, world_size, rank, shuffle=False)
    trainer.fit(module, DataLoader(retain, batch_size=batch_size, sampler=sampler))
    return whole(module, kind), float(trainer.callback_metrics["unlearn/forget_norm"])


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
@each_transform
def test_two_processes_change_what_one_would(name: str, kind: str, accumulate: int) -> None:
    expected, norm = sharded_fit(name, None, accumulate, 1, 0)
    for parameters, norm_there in run_ranks(lambda rank, world: sharded_fit(name, kind, accumulate, world, rank)):
        for parameter, value in expected.items():
            assert_close(parameters[parameter], value, rtol=0, atol=1e-6, msg=lambda m, p=parameter: f"{p}: {m}")
        assert norm_there == pytest.approx(norm, rel=1e-5)


def test_whole_matrices_are_refused_where_they_are_flattened() -> None:
    def attempt(rank: int, world: int) -> None:
        strategy = FSDP1OnCPU(auto_wrap_policy={nn.Linear})
        with pytest.raises(NotImplementedError, match=r"`RowMask` should see whole matrices. Found `FSDPStrategy`"):
            quiet(callbacks=[callback()], strategy=strategy, devices=world).fit(SomebodysModule(), loader(seed=1))

    run_ranks(attempt)


def test_what_is_no_list_of_transforms_is_refused() -> None:
    with pytest.raises(TypeError, match=r"`transforms` should be a list .*Found `RowMask\(share=0.3\)`\."):
        callback(transforms=RowMask(SHARE))
    with pytest.raises(TypeError, match=r"`transforms` should be a list .*Found `'RowMask'` in it"):
        callback(transforms=["RowMask"])


def test_tensor_parallel_processes_mask_what_one_would() -> None:
    def parallel_fit(parallel: bool) -> dict[str, Tensor]:
        module = TensorParallel() if parallel else Plain()
        options = {"strategy": tensor_parallel(), "devices": 2} if parallel else {}
        quiet(callbacks=[callback()], use_distributed_sampler=False, **options).fit(module, loader(seed=1))
        return whole(module, None)

    expected = parallel_fit(False)
    for parameters in run_ranks(lambda rank, world: parallel_fit(True)):
        for name, value in expected.items():
            assert_close(parameters[name], value, rtol=0, atol=2e-6, msg=lambda m, name=name: f"{name}: {m}")


def test_a_state_of_shards_resumes_each_process_with_its_own(tmp_path: Path) -> None:
    def fsdp2_fit(epochs: int, resumed: bool = False) -> tuple[dict[str, Tensor], dict[int, Tensor]]:
        mean, path = Mean(), tmp_path / "first.ckpt"
        trainer = quiet(
            callbacks=[callback(transforms=[RowMask(SHARE), mean])],
            strategy=STRATEGIES["fsdp2"][1](),
            devices=2,
            max_epochs=epochs,
        )
        module = STRATEGIES["fsdp2"][0]("sgd")
        module.unused.requires_grad_(
            False
        )  # torch does not load the state of an optimizer that has none of a parameter
        trainer.fit(module, DataLoader(examples(1), batch_size=4), ckpt_path=path if resumed else None)
        if epochs == 1:
            trainer.save_checkpoint(path)
        return whole(module, None), mean.means

    expected = run_ranks(lambda rank, world: fsdp2_fit(2))
    run_ranks(lambda rank, world: fsdp2_fit(1))
    resumed = run_ranks(lambda rank, world: fsdp2_fit(2, resumed=True))
    for (parameters, means), (there, means_there) in zip(expected, resumed, strict=True):
        assert all(torch.equal(there[name], value) for name, value in parameters.items())
        assert all(torch.equal(means_there[number], value) for number, value in means.items())
    one, other = expected[0][1], expected[1][1]
    assert any(not torch.equal(one[number], other[number]) for number in one)  # they are different shards


def test_it_can_be_written_in_yaml() -> None:
    parser = ArgumentParser()
    parser.add_subclass_arguments(Unlearn, "callback")
    transforms = [{"class_path": "lightning_unlearn.transforms.RowMask", "init_args": {"share": 0.2}}]
    objective = {"class_path": "lightning_unlearn.GradientAscent"}
    given = {"class_path": "lightning_unlearn.Unlearn", "init_args": {"objective": objective, "transforms": transforms}}
    built = parser.instantiate_classes(parser.parse_object({"callback": given})).callback
    assert str(built.transforms) == "[RowMask(share=0.2)]"
