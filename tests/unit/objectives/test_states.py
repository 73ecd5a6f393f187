"""What every objective on hidden states of several layers promises; a new one joins ``SUBJECTS``. And where they start."""

from __future__ import annotations

import inspect
import io
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
import torch.distributed as dist
from _language_models import VOCABULARY, batch, family
from _modules import quiet
from _ranks import run_ranks
from jsonargparse import ArgumentParser
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.testing import assert_close
from torch.utils.data import DataLoader

from lightning_unlearn import CyclicOrder, ForgetRetainData, Unlearn, UnlearningModule
from lightning_unlearn.functional.principal import common_directions, without
from lightning_unlearn.objectives import (
    MCU,
    ActivationDrift,
    ActivationMatch,
    MLPConfuse,
    Objective,
    RepresentationRerouting,
)
from lightning_unlearn.prediction import KnownLikelihood
from lightning_unlearn.readouts import CausalLMReadout, HiddenStates, LayersReadout

COUNTS, LAYERS, WIDTH = (3, 0, 2, 4), 2, 6


def states(counts=COUNTS, *, seed=0, dtype=torch.float64, layers=LAYERS):
    rows, generator = sum(counts), torch.Generator().manual_seed(seed)
    features = torch.randn(rows, layers, WIDTH, generator=generator, dtype=torch.float64) + 0.5
    example = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    features = features.to(dtype).requires_grad_()
    return HiddenStates(features.flatten(1)[:, :0], torch.ones(rows, dtype=torch.int64), example, len(counts), features)


def like(prediction, features):
    return replace(prediction, logits=features.flatten(1)[:, :0], features=features)


def original_of(prediction, *, seed=1):
    noise = torch.randn(prediction.features.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return like(prediction, (prediction.features.detach() + noise).to(prediction.features.dtype))


def dot(a, b):
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def mean(values):
    values = list(values)
    return math.fsum(values) / len(values)


def by_answer(values, prediction):
    """Mean over the rows of each answer, then over the answers that have some."""
    examples = prediction.example.tolist()
    return mean(mean(v for v, e in zip(values, examples, strict=True) if e == number) for number in set(examples))


def match_by_loops(prediction, original):
    pairs = zip(prediction.features.tolist(), original.features.tolist(), strict=True)
    return by_answer(
        [mean(math.dist(a, b) ** 2 / WIDTH for a, b in zip(*pair, strict=True)) for pair in pairs], prediction
    )


def drift_by_loops(prediction, original):
    pairs = zip(prediction.features.tolist(), original.features.tolist(), strict=True)
    return by_answer([mean(math.dist(a, b) for a, b in zip(*pair, strict=True)) for pair in pairs], prediction)


def confuse_by_loops(prediction, original):
    return mean(
        mean(max(0.0, dot(a, b)) for a, b in zip(outputs, originals, strict=True))
        / mean(math.hypot(*b) for b in originals) ** 2
        for outputs, originals in (
            (prediction.features[:, layer].tolist(), original.features[:, layer].tolist())
            for layer in range(prediction.features.shape[1])
        )
    )


def mcu_by_projectors(prediction, original, components):
    """By the matrix that takes out the span: of a pseudo-inverse, with principal components from a covariance matrix."""
    parts = [[], []]
    for layer in range(prediction.features.shape[1]):
        rows = original.features[:, layer].detach().double()
        top = torch.linalg.eigh(torch.cov(rows.T)).eigenvectors[:, WIDTH - components :]
        span = torch.cat([rows.mean(0)[:, None], top], dim=1)
        left = torch.eye(WIDTH, dtype=torch.float64) - span @ torch.linalg.pinv(span)
        for part, said in zip(parts, (prediction, original), strict=True):
            part.append(said.features[:, layer].detach().double() @ left)
    return confuse_by_loops(*(like(prediction, torch.stack(part, dim=1)) for part in parts))


def reroute_by_loops(prediction, original, weight):
    def cosine(a, b):
        return dot(a, b) / math.hypot(*a) / math.hypot(*b)

    features, originals = prediction.features.tolist(), original.features.tolist()
    rows = mean(
        mean(max(0.0, cosine(a, b)) for a, b in zip(*pair, strict=True))
        for pair in zip(features, originals, strict=True)
    )
    pooled = {
        number: [
            [mean(f[layer][d] for f, e in zip(features, prediction.example.tolist(), strict=True) if e == number)
             for d in range(WIDTH)]
            for layer in range(LAYERS)
        ]
        for number in set(prediction.example.tolist())
    }  # fmt: skip
    pairs = [(i, j) for i in pooled for j in pooled if i != j]
    likeness = mean(max(0.0, cosine(pooled[i][x], pooled[j][x])) for i, j in pairs for x in range(LAYERS))
    return rows + weight * likeness


@dataclass
class Subject:
    make: partial[Objective]
    oracle: Callable[..., float]

    def __str__(self) -> str:
        return repr(self.make())


SUBJECTS = [
    Subject(partial(ActivationMatch), match_by_loops),
    Subject(partial(ActivationDrift), drift_by_loops),
    Subject(partial(MLPConfuse), confuse_by_loops),
    Subject(partial(MCU, components=0), partial(mcu_by_projectors, components=0)),
    Subject(partial(MCU, components=2, rows=4096), partial(mcu_by_projectors, components=2)),
    Subject(partial(RepresentationRerouting), partial(reroute_by_loops, weight=0.0)),
    Subject(partial(RepresentationRerouting, orthogonal=0.7), partial(reroute_by_loops, weight=0.7)),
]
every = pytest.mark.parametrize("subject", SUBJECTS, ids=str)


@every
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_the_loops(subject, seed):
    prediction = states(seed=seed)
    original = original_of(prediction, seed=seed + 100)
    value = subject.make()(prediction, original)
    assert value.shape == ()
    assert_close(value.item(), subject.oracle(prediction, original), rtol=1e-10, atol=1e-10)


@every
def test_gradient_is_that_of_the_value(subject):
    prediction = states()
    original = original_of(prediction)
    # Made anew, since some remember what they have seen.
    assert torch.autograd.gradcheck(lambda x: subject.make()(like(prediction, x), original), prediction.features)


@every
def test_order_of_rows_and_of_examples_means_nothing(subject):
    prediction = states()
    original = original_of(prediction)
    rows, numbers = torch.randperm(9, generator=torch.Generator().manual_seed(2)), torch.tensor([2, 0, 5, 1])
    moved = [
        replace(like(p, p.features[rows]), labels=p.labels[rows], example=numbers[p.example[rows]], batch_size=6)
        for p in (prediction, original)
    ]
    assert_close(subject.make()(*moved), subject.make()(prediction, original), rtol=1e-10, atol=1e-12)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_batch_without_rows_is_zero_with_a_graph(subject, dtype):
    empty = states((0, 0), dtype=dtype)
    loss = subject.make()(empty, original_of(empty))
    loss.backward()
    assert loss.item() == 0
    assert empty.features.grad.shape == (0, LAYERS, WIDTH)


@every
def test_half_precision_is_computed_in_float32(subject):
    prediction = states(dtype=torch.bfloat16)
    original = original_of(prediction)
    exact = [like(p, p.features.double()) for p in (prediction, original)]
    value = subject.make()(prediction, original)
    assert value.dtype == torch.float32
    assert_close(value.double(), subject.make()(*exact), rtol=1e-5, atol=1e-6)


@every
@pytest.mark.parametrize("size", [0.0, 1e-18, 1e15])
@pytest.mark.parametrize("moved", [False, True])
def test_it_is_finite_for_states_of_any_size(subject, size, moved):
    features = (size * states(dtype=torch.float32).features.detach()).requires_grad_()
    prediction = like(states(), features)
    original = like(prediction, (2.0 if moved else 1.0) * features.detach())
    loss = subject.make()(prediction, original)
    loss.backward()
    assert loss.isfinite()
    assert features.grad.isfinite().all()


@every
def test_one_layer_needs_no_axis_of_its_own(subject):
    prediction = states(layers=1)
    original = original_of(prediction)
    flat = [like(p, p.features[:, 0]) for p in (prediction, original)]
    assert torch.equal(subject.make()(*flat), subject.make()(prediction, original))


@every
def test_padding_changes_nothing(subject):
    readout, network, other = LayersReadout([r"layers\.[01]\.mlp"]), family("llama"), family("llama", seed=1)
    losses = [
        subject.make()(readout(network, batch(width=width)), readout(other, batch(width=width))) for width in (9, 15)
    ]
    assert losses[0] > 0
    assert_close(*losses, rtol=1e-4, atol=0)


@every
def test_what_is_no_view_of_the_original_is_refused(subject):
    prediction, objective = states(), subject.make()
    with pytest.raises(ValueError, match="should get what the original model said of the same rows"):
        objective(prediction)
    with pytest.raises(ValueError, match=r"9 rows of 4 examples. Found 5 rows of 2 examples"):
        objective(prediction, states((3, 2)))
    with pytest.raises(ValueError, match=r"of the same layers: .* \(9, 2, 6\), .* Found \(9, 3, 6\)"):
        objective(prediction, states(layers=3))
    known = KnownLikelihood(torch.zeros(9), prediction.example, 4)
    with pytest.raises(ValueError, match="should get hidden states, .* Found a `KnownLikelihood` without"):
        objective(prediction, known)


@every
def test_the_global_random_numbers_and_the_arguments_are_left_alone(subject):
    prediction, state = states(), torch.get_rng_state()
    original = original_of(prediction)
    before = [p.features.detach().clone() for p in (prediction, original)]
    subject.make()(prediction, original).backward()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, p.features) for a, p in zip(before, (prediction, original), strict=True))


@every
def test_yaml_builds_it_with_every_setting_shown(subject):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--objective", type=Objective)
    made = subject.make
    config = {"class_path": f"lightning_unlearn.objectives.{made.func.__name__}", "init_args": made.keywords}
    built = parser.instantiate_classes(parser.parse_object({"objective": config})).objective
    assert repr(built) == str(subject)
    names = [n for n in inspect.signature(made.func.__init__).parameters if n not in ("self", "args", "kwargs")]
    assert all(f"{name}=" in str(subject) for name in names)


def gradient_at_the_start(objective):
    """Its length, where the network is the original, and its states several layers'."""
    network = family("llama").double()
    prediction = LayersReadout([r"layers\.[01]\.mlp"])(network, batch())
    objective(prediction, prediction.detach()).backward()
    return math.sqrt(sum(float(p.grad.square().sum()) for p in network.parameters() if p.grad is not None))


def test_rerouting_is_stationary_at_the_start_and_only_its_second_term_moves():
    assert gradient_at_the_start(RepresentationRerouting()) < 1e-14
    assert gradient_at_the_start(RepresentationRerouting(orthogonal=1.0)) > 1e-2


@pytest.mark.parametrize("objective", [MLPConfuse(), MCU(components=2)], ids=str)
def test_confusing_has_a_gradient_at_the_start(objective):
    assert gradient_at_the_start(objective) > 1e-2


@pytest.mark.parametrize("objective", [ActivationMatch(), ActivationDrift()], ids=str)
def test_keeping_states_has_none(objective):
    assert gradient_at_the_start(objective) == 0


def gradient_after(objective, drift):
    prediction = states()
    moved = like(prediction, (prediction.features.detach() + drift).requires_grad_())
    objective(moved, prediction.detach()).backward()
    return float(moved.features.grad.norm())


def test_the_gradient_of_a_distance_jumps_and_that_of_its_square_grows():
    whole, tiny = (gradient_after(ActivationDrift(), drift) for drift in (1.0, 1e-6))
    assert tiny == pytest.approx(whole, rel=1e-6)
    assert tiny > 0.1
    whole, tiny = (gradient_after(ActivationMatch(), drift) for drift in (1.0, 1e-6))
    assert tiny == pytest.approx(1e-6 * whole, rel=1e-6)


def test_mean_and_components_taken_out_together_leave_nothing_and_one_by_one_they_do():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(1, 200, 32, generator=generator, dtype=torch.float64) * torch.arange(1, 33) + 20
    mean, centred = rows.mean(1), rows - rows.mean(1, keepdim=True)
    components = torch.linalg.svd(centred, full_matrices=False).Vh[:, :7].mT
    along = torch.nn.functional.normalize(mean, dim=-1)

    left = without(common_directions(rows, 7), rows.transpose(0, 1))[:, 0]
    assert (left @ along.T).norm() / len(left) ** 0.5 < 3e-13  # root mean square; the rows have 113
    assert (left @ components[0]).abs().max() < 1e-11

    one_by_one = without(components, without(along[..., None], rows.transpose(0, 1)))[:, 0]
    assert (one_by_one @ along.T).norm() / len(left) ** 0.5 > 1


def test_directions_are_orthonormal_and_none_is_made_up():
    rows = states().features.detach().transpose(0, 1)
    basis = common_directions(rows, 3)
    assert_close(basis.mT @ basis, torch.eye(4, dtype=torch.float64).expand(2, 4, 4), rtol=0, atol=3e-15)
    few = common_directions(rows[:, :3].repeat(1, 4, 1), 7)  # three different rows: their mean, and two directions
    assert few.square().sum(1).sum(1).round().tolist() == [3, 3]
    assert common_directions(rows[:, :0], 7).abs().sum() == 0
    assert common_directions(torch.zeros(1, 5, 4), 2).abs().sum() == 0


def test_what_all_outputs_have_in_common_does_not_count():
    objective, prediction = MCU(components=2), states()
    original = original_of(prediction)
    value = objective(prediction, original)
    rows = original.features.transpose(0, 1)
    common = rows.mean(1) + 3 * torch.linalg.svd(rows - rows.mean(1, keepdim=True)).Vh[:, 0]
    objective.set_extra_state({**objective.get_extra_state(), "seen": None})
    assert_close(objective(like(prediction, prediction.features + 5 * common), original), value, rtol=1e-10, atol=0)


def test_directions_are_those_of_the_first_rows_and_survive_a_checkpoint():
    batches = [(states(seed=seed), original_of(states(seed=seed), seed=seed + 9)) for seed in range(4)]
    whole = MCU(components=2, rows=24)
    losses = [whole(*pair) for pair in batches]
    first = torch.cat([original.features for _, original in batches[:3]])[:24]
    state = whole.get_extra_state()
    assert_close(state["directions"].abs(), common_directions(first.transpose(0, 1), 2).abs())
    assert state["seen"] is None

    begun = MCU(components=2, rows=24)
    begun(*batches[0])
    file = io.BytesIO()
    torch.save(begun.state_dict(), file)
    file.seek(0)
    resumed = MCU(components=2, rows=24)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert [resumed(*pair) for pair in batches[1:]] == losses[1:]
    fresh = MCU(components=2, rows=24)
    fresh.load_state_dict(MCU().state_dict())  # before the first batch
    assert [fresh(*pair) for pair in batches] == losses


def test_a_second_fit_takes_nothing_of_the_first_ones_directions():
    again, fresh, first, second = MCU(components=2), MCU(components=2), states(), states(seed=1)
    again(first, original_of(first))
    again.start_anew()
    assert again(second, original_of(second)) == fresh(second, original_of(second))


def mcu_on_a_rank(rank, world_size):
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    objective, prediction = MCU(components=2, rows=12), states(seed=rank)
    objective(prediction, original_of(prediction, seed=rank + 9))
    dist.destroy_process_group()
    return objective.get_extra_state()["directions"]


def test_ranks_agree_on_the_directions_of_the_rows_of_all():
    found = run_ranks(mcu_on_a_rank)
    rows = torch.cat([original_of(states(seed=rank), seed=rank + 9).features for rank in (0, 1)])[:12]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], common_directions(rows.transpose(0, 1), 2))


def fit(folder, steps, ckpt_path=None):
    readout = LayersReadout([r"layers\.[01]\.mlp"])
    module = UnlearningModule(
        family("llama"),
        retain=ActivationMatch(),
        retain_readout=readout,
        optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
    )
    tokens = torch.randint(3, VOCABULARY, (2, 8, 7), generator=torch.Generator().manual_seed(1))
    retain, forget = (
        DataLoader([{"input_ids": t, "labels": torch.where(torch.arange(7) > 2, t, -100)} for t in part], 4)
        for part in tokens
    )
    saves = ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    unlearn = Unlearn(MCU(components=2, rows=40), readout=readout)
    trainer = quiet(callbacks=[unlearn, saves], max_steps=steps, max_epochs=-1, enable_checkpointing=True)
    trainer.fit(
        module, datamodule=ForgetRetainData(retain=retain, forget=forget, order=CyclicOrder()), ckpt_path=ckpt_path
    )
    return [p.detach() for p in module.network.parameters()]


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.filterwarnings("ignore:.*val_dataloader.*")
def test_a_fit_resumes_while_directions_are_still_gathered(tmp_path):
    whole = fit(tmp_path / "whole", 5)
    fit(tmp_path / "first", 2)
    resumed = fit(tmp_path / "second", 5, tmp_path / "first" / "step=2.ckpt")
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(whole, family("llama").parameters(), strict=True))


def test_answers_without_company_have_none_to_be_turned_away_from():
    alone = states((4,))
    original = original_of(alone)
    assert RepresentationRerouting(orthogonal=5.0)(alone, original) == RepresentationRerouting()(alone, original)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RepresentationRerouting(orthogonal=-1.0), "`orthogonal` should be finite and not negative"),
        (lambda: MCU(components=-1), "`components` should be at least 0"),
        (lambda: MCU(rows=0), "`rows` should be at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_keys_are_those_of_language_models():
    assert LayersReadout(["layers.0"]).keys(batch()) == CausalLMReadout().keys(batch())
