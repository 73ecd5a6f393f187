"""Callbacks that serve objectives on hidden states: what they find, when, and that a fit is otherwise left alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from _language_models import VOCABULARY, family
from _modules import quiet, same
from _vantage import Nothing
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils.data import DataLoader

from lightning_unlearn import (
    NPO,
    CyclicOrder,
    FindLatentTargets,
    ForgetRetainData,
    LiveProbe,
    RefitProbeDirections,
    Unlearn,
    UnlearningModule,
)
from lightning_unlearn.functional.logistic import probe_direction
from lightning_unlearn.objectives import Bounded, EncodedMatch, GradientReversalProbe, ProbeAlignment
from lightning_unlearn.objectives.encoders import find_targets, train_sae
from lightning_unlearn.readouts import HiddenStateReadout, LayersReadout, PairedReadout, PromptEndReadout

STATES = HiddenStateReadout("layers.0")
ENDS = PromptEndReadout(STATES)
PAIRS = PairedReadout(LayersReadout([r"layers\.[01]"]))

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*val_dataloader.*"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
]


def rows(seed: int, count: int = 8) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, VOCABULARY, (count, 7), generator=generator)
    return [{"input_ids": t, "labels": torch.where(torch.arange(7) > 2, t, -100)} for t in tokens]


def paired_rows(seed: int, count: int = 8) -> list[dict[str, Any]]:
    return [{**one, "companion": other} for one, other in zip(rows(seed, count), rows(seed + 100, count), strict=True)]


def whole(data: list[dict[str, Any]]) -> Any:
    return torch.utils.data.default_collate(data)


def fit(
    unlearn: Unlearn,
    *callbacks: Any,
    steps: int = 4,
    forget: Any = None,
    network: Any = None,
    folder: Any = None,
    resume: Any = None,
    optimizer: Any = torch.optim.AdamW,
    batch_size: int = 4,
    **trainer: Any,
) -> nn.Module:
    """The network after a fit that saves each step in ``folder``."""
    network = family("llama") if network is None else network
    module = UnlearningModule(network, optimizer=lambda p: optimizer(p, lr=1e-2))
    saves = [] if folder is None else [ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")]
    retain, forget = (DataLoader(data, batch_size) for data in (rows(1), forget or rows(2)))
    data = ForgetRetainData(retain=retain, forget=forget, order=CyclicOrder())
    settings = {"max_steps": steps, "max_epochs": -1, "enable_checkpointing": folder is not None, **trainer}
    quiet(callbacks=[unlearn, *callbacks, *saves], **settings).fit(module, datamodule=data, ckpt_path=resume)
    return network


def encoded(**kwargs: Any) -> Unlearn:
    return Unlearn(EncodedMatch(rho=1.0, margin=0.5), readout=STATES, weight=5.0, **kwargs)


def targets() -> FindLatentTargets:
    return FindLatentTargets(unknown={"people": DataLoader(rows(3), 3)})


def test_targets_are_those_of_the_original():
    unlearn = encoded()
    fit(unlearn, targets())
    original = family("llama").eval()
    known, unknown = (STATES(original, whole(rows(seed))).features.detach() for seed in (2, 3))
    expected = find_targets({"people": known}, {"people": unknown})
    assert_close(unlearn.objective.known, known.mean(0))
    assert_close(unlearn.objective.unknown, unknown.mean(0))
    assert_close(unlearn.objective.scale, expected.scale)


def test_targets_of_several_types_in_latents_of_an_autoencoder(tmp_path):
    network = family("llama").eval()
    data = {name: {"a": rows(seed), "b": rows(seed + 1)} for name, seed in (("known", 2), ("unknown", 4))}
    neutral = STATES(network, whole(rows(9))).features.detach()
    sae = train_sae(neutral, 32, tmp_path / "sae.safetensors", steps=20)
    loaders = {name: {kind: DataLoader(one, 4) for kind, one in types.items()} for name, types in data.items()}
    unlearn = Unlearn(Bounded(EncodedMatch(sae), bound=1e6), readout=STATES)
    find = FindLatentTargets(**loaders, neutral=DataLoader(rows(9), 4), count=3, activity=0.9)
    fit(unlearn, find, steps=1)
    latents = {
        name: {kind: sae(STATES(network, whole(one)).features.detach()) for kind, one in types.items()}
        for name, types in data.items()
    }
    expected = find_targets(latents["known"], latents["unknown"], sae(neutral), count=3, activity=0.9)
    found = unlearn.objective.objective
    assert torch.equal(found.chosen, expected.chosen)
    assert_close(found.unknown, expected.unknown)


def test_finding_targets_leaves_the_fit_as_it_is():
    """The same as a fit whose targets were given by hand, to the bit, with dropout."""

    def dropping() -> nn.Module:
        network = family("llama")
        network.config.attention_dropout = 0.5
        for block in network.model.layers:
            block.self_attn.attention_dropout = 0.5
        return network

    with_callback, by_hand = encoded(), encoded()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = fit(with_callback, targets(), network=dropping())
    by_hand.objective.load_state_dict(with_callback.objective.state_dict())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert same(network, fit(by_hand, network=dropping()))


@pytest.mark.slow
def test_a_fit_comes_closer_to_the_unknown_than_another_objective_does():
    unlearn, batch = encoded(), whole(rows(2))
    network, plain = fit(unlearn, targets(), steps=20), fit(Unlearn(NPO()), steps=20)

    def distances(of: nn.Module) -> tuple[float, float]:
        z = STATES(of.eval(), batch).features
        centers = (unlearn.objective.unknown, unlearn.objective.known)
        unknown, known = (((z - c) / unlearn.objective.scale).square().mean().item() for c in centers)
        return unknown, known

    before, after, other = distances(family("llama")), distances(network), distances(plain)
    assert after[0] < 0.7 * before[0]
    assert after[0] < other[0]
    assert after[0] < after[1]
    assert before[0] > before[1]


CASES = {
    "targets": (encoded, targets, None),
    "live probe": (
        lambda **kwargs: Unlearn(GradientReversalProbe(), readout=ENDS, **kwargs),
        lambda: LiveProbe(lr=1e-2),
        None,
    ),
    "directions": (
        lambda **kwargs: Unlearn(ProbeAlignment(), readout=PAIRS, **kwargs),
        lambda: RefitProbeDirections(every_n_steps=3),
        paired_rows(2),
    ),
}
every = pytest.mark.parametrize("case", CASES)


@every
def test_a_resumed_fit_equals_an_uninterrupted_one(case, tmp_path):
    unlearn, callback, forget = CASES[case]
    expected = fit(unlearn(), callback(), steps=7, forget=forget, max_epochs=7)
    fit(unlearn(), callback(), steps=7, forget=forget, folder=tmp_path / "first", max_epochs=7)
    saved = tmp_path / "first" / "step=4.ckpt"
    folder = tmp_path / "second"
    resumed = fit(unlearn(), callback(), steps=7, forget=forget, folder=folder, resume=saved, max_epochs=7)
    assert same(expected, resumed)


@every
def test_a_second_fit_starts_anew(case):
    unlearn, callback, forget = (make() if callable(make) else make for make in CASES[case])
    first = fit(unlearn, callback, forget=forget)
    assert same(first, fit(unlearn, callback, forget=forget))


@every
def test_accumulation_is_a_larger_batch(case):
    """Micro-batches of one step see the same targets, probe or directions."""
    unlearn, callback, forget = CASES[case]
    plain = {"optimizer": torch.optim.SGD, "forget": forget}
    expected = fit(unlearn(), callback(), batch_size=8, **plain)
    accumulated = fit(unlearn(), callback(), batch_size=4, accumulate_grad_batches=2, **plain)
    for ours, theirs in zip(accumulated.parameters(), expected.parameters(), strict=True):
        assert_close(ours, theirs, rtol=0, atol=1e-5)
    moved = zip(expected.parameters(), family("llama").parameters(), strict=True)
    assert max(float((p - q).detach().abs().max()) for p, q in moved) > 1e-3


@every
def test_under_an_attack_that_does_nothing_the_fit_is_the_same(case):
    unlearn, callback, forget = CASES[case]
    plain = {"forget": forget, "optimizer": torch.optim.SGD}
    expected = fit(unlearn(), callback(), **plain)
    attacked = fit(unlearn(under={"nothing": Nothing()}), callback(), **plain)
    for ours, theirs in zip(attacked.parameters(), expected.parameters(), strict=True):
        assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.slow
@every
@pytest.mark.parametrize("trainer", [{"precision": "bf16-mixed"}, {"gradient_clip_val": 0.1}], ids=str)
def test_adapters_train_in_other_precisions_and_with_clipping(case, trainer):
    unlearn, callback, forget = CASES[case]
    start, network = family("llama", lora=True), family("llama", lora=True)
    fit(unlearn(), callback(), forget=forget, network=network, **trainer)
    moved = {
        name for (name, p), q in zip(network.named_parameters(), start.parameters(), strict=True) if (p != q).any()
    }
    assert moved == {name for name, p in start.named_parameters() if p.requires_grad}


@every
def test_without_its_callback_the_objective_says_which(case):
    unlearn, callback, forget = CASES[case]
    with pytest.raises(ValueError, match=rf"Add `{type(callback()).__name__}\("):
        fit(unlearn(), forget=forget)


@every
def test_without_its_objective_the_callback_says_which(case):
    unlearn, callback, _ = CASES[case]
    kind = type(unlearn().objective).__name__
    with pytest.raises(
        ValueError, match=rf"should find an `Unlearn` that forgets by `{kind}`. Found `NPO\(beta=0.1\)`"
    ):
        fit(Unlearn(NPO()), callback())


def test_the_probe_is_in_no_model_and_in_the_state_of_its_callback(tmp_path):
    unlearn, live = Unlearn(GradientReversalProbe(), readout=ENDS), LiveProbe()
    network = fit(unlearn, live, folder=tmp_path)
    checkpoint = torch.load(tmp_path / "step=4.ckpt", weights_only=True)
    assert set(checkpoint["state_dict"]) == set(network.state_dict())
    assert len(checkpoint["optimizer_states"][0]["state"]) == len(list(network.parameters()))
    kept = checkpoint["callbacks"]["LiveProbe"]
    assert torch.equal(kept["probe"]["weight"], live.probe.weight)
    assert not checkpoint["callbacks"][unlearn.state_key]["objective"]
    assert list(unlearn.objective.parameters()) == []


def test_the_probe_learns_from_each_step_and_against_a_rising_strength():
    """By hand: what the objective met, and Adam's steps on what it saw."""
    met: list[tuple[float, Any, Any, Any]] = []

    class Watched(GradientReversalProbe):
        def face(self, probe, labels, strength):
            super().face(probe, labels, strength)
            self.met = (strength, {name: p.detach().clone() for name, p in probe.named_parameters()})

        def take_seen(self):
            seen = super().take_seen()
            if seen is not None:  # before the first step there is nothing
                met.append((*self.met, *seen))
            return seen

    live = LiveProbe(lr=1e-2, steps=3)
    fit(Unlearn(Watched(), readout=ENDS), live, steps=4)
    expected = nn.Linear(16, len(live._labels))
    expected.load_state_dict(met[0][1])
    adam = torch.optim.Adam(expected.parameters(), 1e-2)
    for number, (strength, weights, seen, classes) in enumerate(met):
        p = (number + 1) / 4
        assert strength == pytest.approx(2 / (1 + torch.tensor(-10 * p).exp().item()) - 1)
        assert torch.equal(weights["weight"], expected.weight)
        for _ in range(3):
            adam.zero_grad()
            F.cross_entropy(expected(seen), classes).backward()
            adam.step()
    assert torch.equal(live.probe.weight, expected.weight)


def test_the_encoder_goes_against_the_gradient_of_the_probe_which_keeps_its_own():
    network, probe = family("llama").eval(), nn.Linear(16, VOCABULARY)
    objective = GradientReversalProbe()
    objective.face(probe, torch.arange(VOCABULARY), strength=0.7)

    def gradients(loss: Any) -> list[Any]:
        network.zero_grad()
        probe.zero_grad()
        loss().backward()
        return [p.grad.clone() for p in network.parameters() if p.grad is not None]

    read = whole(rows(2))
    labels = ENDS(network, read).labels
    plain = gradients(lambda: F.cross_entropy(probe(ENDS(network, read).features), labels))
    of_the_probe = probe.weight.grad.clone()
    against = gradients(lambda: objective(ENDS(network, read)))
    assert len(plain) == len(against) > 5
    for ours, theirs in zip(against, plain, strict=True):
        assert_close(ours, -0.7 * theirs)
    assert probe.weight.grad is None
    seen, classes = objective.take_seen()
    F.cross_entropy(probe(seen), classes).backward()
    assert_close(probe.weight.grad, of_the_probe)


def test_the_end_of_each_prompt_is_read_without_its_answer():
    network, batch = family("llama").eval(), whole(rows(2))
    read = ENDS(network, batch)
    hidden = network(input_ids=batch["input_ids"], output_hidden_states=True).hidden_states[1]
    assert_close(read.features, hidden[:, 2])
    assert torch.equal(read.labels, batch["input_ids"][:, 3])
    assert read.example.tolist() == list(range(8))
    other = {**batch, "input_ids": batch["input_ids"].clone()}
    other["input_ids"][:, 3:] = 5
    assert torch.equal(ENDS(network, other).features, read.features)
    assert ENDS.keys(batch) == STATES.keys(batch)


def test_directions_are_those_of_the_network_at_each_refit():
    found: dict[int, Any] = {}

    class Watched(ProbeAlignment):
        def align_along(self, directions):
            super().align_along(directions)
            if directions.numel():
                found[len(found)] = (directions, {k: v.clone() for k, v in network.state_dict().items()})

    network = family("llama")
    fit(Unlearn(Watched(), readout=PAIRS), RefitProbeDirections(3), forget=paired_rows(2), network=network, steps=7)
    assert len(found) == 3  # before steps 0, 3 and 6
    for directions, weights in found.values():
        network.load_state_dict(weights)
        last = ProbeAlignment().last_states(PAIRS(network.eval(), whole(paired_rows(2))))
        by_hand = [probe_direction(last.forget[:, i], last.companion[:, i]) for i in range(2)]
        assert_close(directions, torch.stack(by_hand).float(), rtol=1e-4, atol=1e-5)


def test_a_pool_of_its_own_shares_nothing_with_what_is_aligned():
    unlearn = Unlearn(ProbeAlignment(), readout=PAIRS)
    with pytest.raises(
        ValueError, match="`pool` should share no example with the forget data. Found 4. Split the pairs"
    ):
        mixed = DataLoader([*paired_rows(2)[:2], *paired_rows(3)], 4)
        fit(unlearn, RefitProbeDirections(pool=mixed), forget=paired_rows(2))
    fit(unlearn, RefitProbeDirections(pool=DataLoader(paired_rows(3), 4)), forget=paired_rows(2))
    last = unlearn.objective.last_states(PAIRS(family("llama").eval(), whole(paired_rows(3))))
    assert_close(
        unlearn.objective.directions[1],
        probe_direction(last.forget[:, 1], last.companion[:, 1]).float(),
        atol=1e-5,
        rtol=1e-4,
    )


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(
        ValueError, match=r"`unknown` should be a mapping from types of entities .* Found `unknown = \{\}`"
    ):
        FindLatentTargets(unknown={})
    with pytest.raises(ValueError, match="`unknown` should be a mapping from types"):
        FindLatentTargets(unknown={"class_path": "QuestionAnswerData"})
    with pytest.raises(ValueError, match="`known` should have the types of `unknown`, a, b. Found a"):
        FindLatentTargets(unknown={"a": {}, "b": {}}, known={"a": {}})
    with pytest.raises(ValueError, match="Found a, b and no `known`"):
        FindLatentTargets(unknown={"a": {}, "b": {}})
    with pytest.raises(ValueError, match="`every_n_steps` should be at least 1"):
        RefitProbeDirections(every_n_steps=0)
    with pytest.raises(ValueError, match="`lr` should be positive and finite"):
        LiveProbe(lr=0.0)
    same_answer = [{**one, "labels": torch.where(torch.arange(7) == 3, 5, -100)} for one in rows(2)]
    with pytest.raises(ValueError, match="at least two different labels for a probe to tell apart. Found 1"):
        fit(Unlearn(GradientReversalProbe(), readout=ENDS), LiveProbe(), forget=same_answer)
    with pytest.raises(ValueError, match="should know how many steps the fit takes.*`max_steps` or `max_epochs`"):
        fit(Unlearn(GradientReversalProbe(), readout=ENDS), LiveProbe(), steps=-1)
    with pytest.raises(ValueError, match="should serve one `GradientReversalProbe`. Found 2"):
        fit(Unlearn(GradientReversalProbe(), readout=ENDS), LiveProbe(), Unlearn(Bounded(GradientReversalProbe(), 1.0)))
