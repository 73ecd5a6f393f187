"""Every objective on a classifier of images: one step does what it is for, or one clear error says why not."""

from __future__ import annotations

import pytest
import torch
from _language_models import batch, family
from _modules import quiet
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

from lightning_unlearn import CausalLMReadout, ClassificationReadout, Unlearn, UnlearningModule, objectives
from lightning_unlearn.objectives import (
    CEU,
    DPO,
    FLAT,
    MCU,
    NPO,
    RMU,
    UNDIAL,
    WGA,
    ActivationDrift,
    ActivationMatch,
    Bounded,
    CrossEntropy,
    EncodedMatch,
    FixedRandomLabel,
    GradientAscent,
    GradientReversalProbe,
    ImportanceScheduled,
    JensUn,
    JSDToReference,
    KLToReference,
    LogitMarginFlattening,
    MLPConfuse,
    Objective,
    ProbeAlignment,
    PromptDecouple,
    PrototypePull,
    PrototypePush,
    RandomLabel,
    RepresentationDeviation,
    RepresentationRerouting,
    SatImp,
    ScopeTerm,
    SimNPO,
    SpanPair,
    TopKKL,
    UniformLabel,
)
from lightning_unlearn.readouts import HiddenStateReadout, PairedReadout, Readout

CLASSES = 4
PLAIN = ClassificationReadout("x", "y")
PAIRED = PairedReadout(PLAIN)


def images(seed: int, n: int = 6) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 1, 4, 4, generator=generator)
    return {"x": x, "y": torch.randint(CLASSES, (n,), generator=generator)}


FORGET, KEPT = images(1), images(2)
OTHER = {"x": FORGET["x"], "y": (FORGET["y"] + 1) % CLASSES}  # the same images, labelled otherwise
BATCH = {**FORGET, "companion": KEPT}
RELABELLED = {**FORGET, "companion": OTHER}


@pytest.fixture(scope="module")
def knowing() -> nn.Module:
    """A convolutional network that knows both."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(32, CLASSES))
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-2)
    for _ in range(60):
        optimizer.zero_grad()
        sum(CrossEntropy()(PLAIN(network, data)) for data in (FORGET, KEPT)).backward()
        optimizer.step()
    assert all((PLAIN(network, d).logits.argmax(1) == d["y"]).all() for d in (FORGET, KEPT))
    return network


# How it is read, and which way the labels that must go move.
WORKS: dict[str, tuple[Objective, Readout, int]] = {
    "CrossEntropy": (CrossEntropy(), PLAIN, +1),
    "GradientAscent": (GradientAscent(), PLAIN, -1),
    "Bounded": (Bounded(GradientAscent(), bound=1.4), PLAIN, -1),
    "NPO": (NPO(), PLAIN, -1),
    "SimNPO": (SimNPO(), PLAIN, -1),
    "DPO": (DPO(), PAIRED, -1),
    "WGA": (WGA(), PLAIN, -1),
    "SatImp": (SatImp(), PLAIN, -1),
    "CEU": (CEU(), PLAIN, -1),
    "UNDIAL": (UNDIAL(), PLAIN, -1),
    "LogitMarginFlattening": (LogitMarginFlattening(), PLAIN, -1),
    "RandomLabel": (RandomLabel(), PLAIN, -1),
    "UniformLabel": (UniformLabel(), PLAIN, -1),
    "JensUn": (JensUn(target=[2]), PLAIN, -1),
    "FLAT": (FLAT(), PAIRED, -1),
    "KLToReference": (KLToReference(), PLAIN, 0),
    "JSDToReference": (JSDToReference(), PLAIN, 0),
    "TopKKL": (TopKKL(k=2), PLAIN, 0),
    "ImportanceScheduled": (ImportanceScheduled([GradientAscent(), NPO()], thresholds=[0.5]), PLAIN, -1),
    "ScopeTerm": (ScopeTerm(GradientAscent(), eta=0.1), PAIRED, -1),
    "PromptDecouple": (PromptDecouple(GradientAscent(), weight=0.1), PAIRED, -1),
}
NO_STATES = r"should get hidden states.* Use `HiddenStateReadout\(layer=...\)`"
# What asks for something that a batch of images has not got.
REFUSES: dict[str, tuple[Objective, str]] = {
    "FixedRandomLabel": (FixedRandomLabel(), r"answers of several tokens.* Found 6 rows of 6 examples. Use"),
    "CEU": (CEU(skip_first_tokens=1), r"Found `skip_first_tokens = 1` and at most 1 rows an example. Use `CEU\(\)`"),
    "RMU": (RMU(), NO_STATES),
    "ActivationMatch": (ActivationMatch(), NO_STATES),
    "ActivationDrift": (ActivationDrift(), NO_STATES),
    "PrototypePush": (PrototypePush(bound=1.0), NO_STATES),
    "PrototypePull": (PrototypePull(), NO_STATES),
    "MLPConfuse": (MLPConfuse(), NO_STATES),
    "MCU": (MCU(), NO_STATES),
    "RepresentationRerouting": (RepresentationRerouting(), NO_STATES),
    "FLAT": (FLAT(), r"a companion to each.* Found a `Prediction` of 6. Use `readout=PairedReadout\(\)`"),
    "EncodedMatch": (EncodedMatch(), NO_STATES),
    "RepresentationDeviation": (RepresentationDeviation(), NO_STATES),
    "GradientReversalProbe": (GradientReversalProbe(), NO_STATES),
    "ProbeAlignment": (ProbeAlignment(), r"a companion to each.* Found a `Prediction` of 6. Use `readout=PairedReadout"),
    "SpanPair": (SpanPair(), r"a companion to each.* Found a `Prediction` of 6. Use `readout=PairedReadout\(\)`"),
    "DPO": (DPO(), r"a companion to each.* Found a `Prediction` of 6"),
    "ScopeTerm": (ScopeTerm(NPO()), r"a companion to each.* Found a `Prediction` of 6"),
    "PromptDecouple": (PromptDecouple(NPO()), r"a companion to each.* Found a `Prediction` of 6"),
}  # fmt: skip


def test_no_objective_is_left_out() -> None:
    assert {*WORKS, *REFUSES} == set(objectives.__all__) - {"Objective", "PrototypeObjective"}


def loss_of(objective: Objective, readout: Readout, network: nn.Module) -> Tensor:
    # Preferred to labels that must go are other labels of the same images.
    student = readout(network, RELABELLED if isinstance(objective, DPO | FLAT) else BATCH)
    loss: Tensor = objective(student, student.detach() if objective.needs_reference else None)
    return loss


@pytest.mark.parametrize("name", WORKS)
def test_a_step_moves_the_labels_of_images_as_promised(name: str, knowing: nn.Module) -> None:
    objective, readout, moves = WORKS[name]
    parameters = list(knowing.parameters())
    loss = loss_of(objective, readout, knowing)
    gradient = torch.autograd.grad(loss, parameters)
    assert loss.shape == ()
    assert loss.isfinite()
    rate = 1e-3 / torch.cat([g.flatten() for g in gradient]).norm().clamp_min(1e-5)
    after = {n: p.detach() - rate * g for (n, p), g in zip(knowing.named_parameters(), gradient, strict=True)}
    moved = torch.func.functional_call(knowing, after, FORGET["x"])
    gained = PLAIN(knowing, FORGET).token_nll().mean() - nn.functional.cross_entropy(moved, FORGET["y"])
    if moves:
        assert gained * moves > 1e-7
    else:
        assert gained.abs() < 1e-6


@pytest.mark.parametrize("name", REFUSES)
def test_what_a_batch_of_images_has_not_got_is_asked_for(name: str, knowing: nn.Module) -> None:
    objective, message = REFUSES[name]
    with pytest.raises(ValueError, match=message):
        loss_of(objective, PLAIN, knowing)


def test_hidden_states_are_read_of_language_models_only(knowing: nn.Module) -> None:
    forget = DataLoader(TensorDataset(FORGET["x"], FORGET["y"]), 3)
    trainer = quiet(callbacks=[Unlearn(RMU(), readout=HiddenStateReadout("0"), forget=forget)], max_steps=1)
    module = UnlearningModule(knowing)
    retain = DataLoader(TensorDataset(KEPT["x"], KEPT["y"]), 3)
    with pytest.raises(ValueError, match=r"should find a Hugging Face model inside the module. Found none in"):
        trainer.fit(module, retain, retain)


SINGLE = [name for name, (_, readout, _) in WORKS.items() if readout is PLAIN and name != "RandomLabel"]


@pytest.mark.parametrize("name", SINGLE)
def test_an_image_is_an_answer_of_one_token(name: str) -> None:
    """The same loss whether a label is read of a classifier, or as the one supervised token of a text."""
    network = family("llama").eval()
    data = batch(rows=(0, 1))
    data["labels"][:, :] = -100
    for row, place in enumerate((5, 3)):
        data["labels"][row, place] = data["input_ids"][row, place]
    text = CausalLMReadout()(network, data)
    image = ClassificationReadout()(nn.Identity(), (text.logits, text.labels))
    objective = WORKS[name][0]
    original = text.detach() if objective.needs_reference else None
    assert_close(objective(image, original), objective(text, original), rtol=0, atol=0)
