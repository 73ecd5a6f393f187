"""Hidden states of one layer: read without running the rest, steered to one vector, held where they were."""

from __future__ import annotations

import io
import math
import struct
from typing import Any

import pytest
import torch
from _language_models import VOCABULARY, adapted, batch, family, train_adapter
from _modules import quiet
from jsonargparse import ArgumentParser
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import nn
from torch.testing import assert_close
from torch.utils.data import DataLoader

from lightning_unlearn import (
    CausalLMReadout,
    CrossEntropy,
    CyclicOrder,
    ForgetRetainData,
    FrozenCopy,
    TokenNLL,
    Unlearn,
    UnlearningModule,
)
from lightning_unlearn.objectives import NPO, RMU, ActivationMatch, Objective
from lightning_unlearn.prediction import KnownLikelihood, Prediction
from lightning_unlearn.readouts import HiddenStateReadout, HiddenStates, PackedCausalLMReadout

COUNTS = (3, 0, 2, 4)
WIDTH = 6


def states(counts=COUNTS, *, seed=0, dtype=torch.float64, width=WIDTH):
    rows = sum(counts)
    features = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
    features.requires_grad_()
    example = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return HiddenStates(features[:, :0], torch.ones(rows, dtype=torch.int64), example, len(counts), features)


def like(prediction, features):
    return HiddenStates(features[:, :0], prediction.labels, prediction.example, prediction.batch_size, features)


def by_loops(prediction, targets):
    """Mean squared distance, token by token, answer by answer, in Python floats."""
    answers = []
    for number in range(prediction.batch_size):
        rows = [n for n, e in enumerate(prediction.example.tolist()) if e == number]
        distances = [
            math.dist(prediction.features[n].tolist(), targets[n]) ** 2 / prediction.features.shape[1] for n in rows
        ]
        answers += [sum(distances) / len(rows)] if rows else []
    return torch.tensor(sum(answers) / len(answers), dtype=torch.float64)


def rmu(width=WIDTH, **kwargs):
    """In double precision: the buffer is float32."""
    objective = RMU(**kwargs)
    objective(states(width=width))
    return objective.double()


def gradient_by_loops(prediction, targets):
    """Twice the distance along each axis, shared out over axes, tokens and answers."""
    counts = [n for n in COUNTS if n]
    shares = [1 / (n * len(counts) * prediction.features.shape[1]) for n in counts for _ in range(n)]
    rows = zip(prediction.features.tolist(), targets, shares, strict=True)
    return torch.tensor([[2 * s * (h - c) for h, c in zip(a, b, strict=True)] for a, b, s in rows], dtype=torch.float64)


def test_rmu_equals_the_loops():
    objective, prediction = rmu(steering_coefficient=3.0, seed=5), states()
    direction = torch.rand(WIDTH, generator=torch.Generator().manual_seed(5), dtype=torch.float64).tolist()
    control = [struct.unpack("f", struct.pack("f", 3.0 * x / math.hypot(*direction)))[0] for x in direction]  # float32
    value = objective(prediction)
    assert_close(value, by_loops(prediction, [control] * 9), rtol=1e-10, atol=0)
    (gradient,) = torch.autograd.grad(value, prediction.features)
    assert_close(gradient, gradient_by_loops(prediction, [control] * 9), rtol=1e-10, atol=1e-10)
    assert (objective.control >= 0).all()
    assert objective.control.norm().item() == pytest.approx(3.0, rel=1e-6)


def test_activation_match_equals_the_loops():
    prediction, original = states(), states(seed=1)
    value = ActivationMatch()(prediction, original)
    assert_close(value, by_loops(prediction, original.features.tolist()), rtol=1e-12, atol=0)
    (gradient,) = torch.autograd.grad(value, prediction.features)
    assert_close(gradient, gradient_by_loops(prediction, original.features.tolist()), rtol=1e-10, atol=1e-10)
    assert ActivationMatch()(prediction, prediction.detach()) == 0


@pytest.mark.parametrize("make", [rmu, ActivationMatch])
def test_what_both_promise(make):
    objective, prediction, original = make(), states(), states(seed=1)

    def loss(features):
        return objective(like(prediction, features), original)

    value = loss(prediction.features)
    assert torch.autograd.gradcheck(loss, prediction.features)
    rows = torch.randperm(9, generator=torch.Generator().manual_seed(2))
    moved, moved_original = (
        Prediction(p.logits[rows], p.labels[rows], torch.tensor([2, 0, 3, 1])[p.example[rows]], 4, p.features[rows])
        for p in (prediction, original)
    )
    assert_close(objective(moved, moved_original), value, rtol=1e-12, atol=0)
    empty = states((0, 0))
    nothing = objective(empty, states((0, 0)))
    nothing.backward()
    assert nothing.item() == 0
    assert empty.features.grad.shape == (0, WIDTH)


@pytest.mark.parametrize("make", [RMU, ActivationMatch])
def test_half_precision_is_computed_in_float32(make):
    prediction, original = states(dtype=torch.bfloat16), states(seed=1, dtype=torch.bfloat16)
    exact = make()(like(prediction, prediction.features.double()), like(original, original.features.double()))
    value = make()(prediction, original)
    assert value.dtype == torch.float32
    assert_close(value.double(), exact, rtol=1e-5, atol=1e-6)


def test_the_global_random_numbers_are_left_alone():
    before = torch.get_rng_state()
    RMU()(states())
    assert torch.equal(torch.get_rng_state(), before)


def test_the_control_vector_is_one_per_seed_and_in_the_state():
    first, second, other = (RMU(seed=seed) for seed in (0, 0, 1))
    for objective in (first, second, other):
        objective(states())
    assert torch.equal(first.control, second.control)
    assert not torch.equal(first.control, other.control)
    restored = RMU(seed=1)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    restored.load_state_dict(torch.load(file, weights_only=True))
    assert_close(restored(states()), first(states()))
    fresh = RMU()
    fresh.load_state_dict(RMU().state_dict())  # before the first batch
    assert_close(fresh(states()), first(states()))


def test_states_of_another_width_are_refused():
    with pytest.raises(ValueError, match="`RMU` should see hidden states of 6 dimensions, as before. Found 4"):
        rmu()(states(width=4))
    with pytest.raises(ValueError, match=r"the same layers: hidden states of shape \(9, 1, 6\), .* Found \(9, 1, 4\)"):
        ActivationMatch()(states(), states(width=4))


def test_a_second_fit_may_be_of_another_width():
    objective = RMU()
    objective(states())
    objective.start_anew()
    assert objective(states(width=4)) == RMU()(states(width=4))


def test_predictions_without_states_are_refused():
    prediction = states()
    plain = Prediction(torch.zeros(9, 3), prediction.labels, prediction.example, 4)
    known = KnownLikelihood(torch.zeros(9), prediction.example, 4)
    match = ActivationMatch()
    for objective, student, original in ((RMU(), plain, None), (match, prediction, plain), (match, prediction, known)):
        with pytest.raises(ValueError, match=r"should get hidden states.*HiddenStateReadout\(layer="):
            objective(student, original)
    with pytest.raises(ValueError, match="should get what the original model said of the same rows"):
        ActivationMatch()(prediction)


@pytest.mark.parametrize("use", [CrossEntropy(), NPO(), lambda s, r: TokenNLL().update(s, torch.arange(4))])
def test_likelihoods_are_not_to_be_had(use):
    with pytest.raises(
        ValueError, match="Likelihoods should be taken of a readout with logits. Found the hidden states"
    ):
        use(states(), states())


@pytest.mark.parametrize("coefficient", [0.0, -1.0, math.nan, math.inf])
def test_coefficient_out_of_range_is_refused(coefficient):
    with pytest.raises(ValueError, match="`steering_coefficient` should be positive and finite. Found"):
        RMU(steering_coefficient=coefficient)


def test_yaml_builds_it():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--objective", type=Objective)
    text = "objective: {class_path: lightning_unlearn.objectives.RMU, init_args: {steering_coefficient: 2, seed: 3}}"
    assert (
        repr(parser.instantiate_classes(parser.parse_string(text)).objective) == "RMU(steering_coefficient=2.0, seed=3)"
    )


LAYERS = {"llama": "layers.0", "gpt2": r"h\.0", "gemma2": "layers.0", "opt": "layers.0", "phi": "layers.0"}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("side", ["right", "left"])
def test_reads_what_the_model_itself_gives_out(name, side):
    network, rows = family(name).eval(), batch(side)
    prediction = HiddenStateReadout(LAYERS[name])(network, rows)
    chosen, shown = rows["labels"] != -100, rows["attention_mask"].bool()
    alone = [
        network(tokens[own][None], output_hidden_states=True).hidden_states[1][0][which[own]]
        for tokens, own, which in zip(rows["input_ids"], shown, chosen, strict=True)
    ]
    assert_close(prediction.features, torch.cat(alone))
    assert torch.equal(prediction.labels, rows["labels"][chosen])
    assert torch.equal(prediction.example, chosen.nonzero()[:, 0])
    assert prediction.logits.shape == (len(prediction.labels), 0)
    assert prediction.batch_size == 3


def test_the_layers_behind_are_not_run_and_get_no_gradient():
    network = family("llama")
    ran: list[str] = []
    for name, module in network.named_modules():
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
    network.model.embed_tokens.weight.requires_grad_(False)
    RMU()(HiddenStateReadout("layers.0")(network, batch())).backward()
    assert "model.layers.0.mlp" in ran
    assert not {"model.layers.1", "model.norm", "lm_head", "model", ""} & set(ran)
    with_gradient = {name for name, p in network.named_parameters() if p.grad is not None}
    assert with_gradient == {name for name, _ in network.named_parameters() if name.startswith("model.layers.0.")}


@pytest.mark.filterwarnings("ignore:.*val_dataloader.*")
def test_in_a_fit_only_what_is_trained_gets_a_gradient_and_moves():
    """As on WMDP: one matrix. The rest takes no memory for gradients, neither from retaining nor from forgetting."""
    network, readout = family("llama"), HiddenStateReadout("layers.0")
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    for name, p in network.named_parameters():
        p.requires_grad_(name == "model.layers.0.mlp.down_proj.weight")
    with_gradient: set[str] = set()

    class Watch(Callback):
        def on_after_backward(self, trainer, pl_module):
            self.look()

        def on_before_zero_grad(self, trainer, pl_module, optimizer):
            self.look()

        def look(self):
            with_gradient.update(name for name, p in network.named_parameters() if p.grad is not None)

    module = UnlearningModule(network, retain=ActivationMatch(), retain_readout=readout)
    unlearn = Unlearn(RMU(steering_coefficient=4.0), readout=readout)
    data = ForgetRetainData(retain=DataLoader(rows(1), 4), forget=DataLoader(rows(2), 4))
    quiet(callbacks=[unlearn, Watch()], max_steps=2, limit_val_batches=0).fit(module, datamodule=data)
    moved = {name for name, p in network.named_parameters() if not torch.equal(p, before[name])}
    assert with_gradient == moved == {"model.layers.0.mlp.down_proj.weight"}
    copied = [held for held in module.reference._originals if isinstance(held.tensor(), nn.Parameter)]
    assert len(copied) == 1  # nor does the original of the rest


def test_no_hook_stays_whatever_happens():
    network = family("llama")

    def hooks():
        return [len(module._forward_hooks) for module in network.modules()]

    before = hooks()
    HiddenStateReadout("layers.1")(network, batch())
    assert hooks() == before
    with pytest.raises(IndexError, match="index out of range"):
        HiddenStateReadout("layers.1")(network, {**batch(), "input_ids": batch()["input_ids"] + VOCABULARY})
    assert hooks() == before


def test_finds_the_layer_under_an_adapter_whose_absence_is_the_original():
    network = adapted(family("llama"))
    readout, plain = HiddenStateReadout("layers.1"), family("llama").eval()
    train_adapter(network)
    with network.eval().disable_adapter():
        assert_close(readout(network, batch()).features, readout(plain, batch()).features)
    assert not torch.allclose(readout(network, batch()).features, readout(plain, batch()).features)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("layers.7", r"Found 0 with `layer = 'layers.7'`. There are `model.layers.0`, `model.layers.1`"),
        (r"layers\.\d", r"Found 2 .* They are `model.layers.0`, `model.layers.1`"),
        ("mlp", r"Found 2 .* They are `model.layers.0.mlp`, `model.layers.1.mlp`"),
    ],
)
def test_layers_that_are_not_one_are_refused_with_those_there_are(layer, message):
    with pytest.raises(ValueError, match=message):
        HiddenStateReadout(layer)(family("llama"), batch())


@pytest.mark.filterwarnings("ignore:.*val_dataloader.*")
def test_a_layer_that_is_not_there_is_refused_before_the_first_step():
    module = UnlearningModule(family("llama"))
    trainer = quiet(callbacks=[Unlearn(RMU(), readout=HiddenStateReadout("layers.7"))], max_steps=1)
    with pytest.raises(
        ValueError, match=r"`layer` should fit the name of one module. Found 0 with `layer = 'layers.7'`"
    ):
        trainer.fit(module, datamodule=ForgetRetainData(retain=DataLoader(rows(1), 4), forget=DataLoader(rows(2), 4)))
    assert trainer.global_step == 0


def test_what_is_no_pattern_or_no_hidden_state_is_refused():
    with pytest.raises(ValueError, match=r"`layer` should be a regular expression. Found `layer = '\('"):
        HiddenStateReadout("(")
    with pytest.raises(ValueError, match=r"hidden state per position, .* = \[3, 9\]. Found .* Name a whole block"):
        HiddenStateReadout("rotary_emb")(family("llama"), batch())


def test_compiled_networks_are_read_too():
    network = family("llama").eval()
    expected = HiddenStateReadout("layers.0")(network, batch()).features
    network.compile(backend="eager")
    assert_close(HiddenStateReadout("layers.0")(network, batch()).features, expected)


def test_keys_and_measuring_are_those_of_language_models():
    readout, network = HiddenStateReadout("layers.0"), family("llama")
    assert readout.keys(batch()) == CausalLMReadout().keys(batch())
    assert isinstance(readout.for_measuring(), PackedCausalLMReadout)
    assert readout.find_network(nn.ModuleDict({"inside": network})) is network


def rows(seed):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, VOCABULARY, (8, 7), generator=generator)
    return [{"input_ids": t, "labels": torch.where(torch.arange(7) > 2, t, -100)} for t in tokens]


def fit(tmp_path: Any, steps: int, ckpt_path: Any = None) -> tuple[Any, Any, Any]:
    network, readout = family("llama"), HiddenStateReadout("layers.0")
    module = UnlearningModule(
        network, retain=ActivationMatch(), retain_readout=readout, optimizer=lambda p: torch.optim.AdamW(p, lr=1e-2)
    )
    unlearn = Unlearn(RMU(steering_coefficient=4.0), readout=readout)
    saves = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    trainer = quiet(callbacks=[unlearn, saves], max_steps=steps, max_epochs=-1, enable_checkpointing=True)
    data = ForgetRetainData(retain=DataLoader(rows(1), 4), forget=DataLoader(rows(2), 4), order=CyclicOrder())
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
    return network, unlearn, module


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.filterwarnings("ignore:.*val_dataloader.*")
def test_a_fit_steers_what_must_go_and_resumes(tmp_path):
    original, readout = family("llama"), HiddenStateReadout("layers.0")
    network, unlearn, module = fit(tmp_path / "whole", 20)
    forget, retain = (torch.utils.data.default_collate(rows(seed)) for seed in (2, 1))
    distance = {n: unlearn.objective(readout(n, forget)) for n in (original, network)}
    assert distance[network] < 0.8 * distance[original]
    moved = ActivationMatch()(readout(network, retain), readout(original, retain))
    assert moved < ActivationMatch()(readout(network, forget), readout(original, forget))
    assert isinstance(module.reference, FrozenCopy)
    assert torch.equal(network.model.layers[1].mlp.up_proj.weight, original.model.layers[1].mlp.up_proj.weight)

    fit(tmp_path / "first", 7)
    resumed, again, _ = fit(tmp_path / "second", 20, tmp_path / "first" / "step=7.ckpt")
    assert torch.equal(again.objective.control, unlearn.objective.control)
    for a, b in zip(network.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
