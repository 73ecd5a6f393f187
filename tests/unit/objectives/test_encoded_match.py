"""Steering latents of an encoder to those of unknown entities."""

from __future__ import annotations

import io

import pytest
import torch
from _language_models import batch, family
from _states import WIDTH, sparse_states, states, with_features
from jsonargparse import ArgumentParser
from torch import nn

from lightning_unlearn.objectives import RMU, EncodedMatch, Objective
from lightning_unlearn.objectives.encoders import Encoder, Identity, LatentTargets, train_sae
from lightning_unlearn.readouts import HiddenStateReadout


def targets(unknown, known=None, scale=None, chosen=None):
    chosen = torch.arange(len(unknown)) if chosen is None else chosen
    known = unknown + 10 if known is None else known
    return LatentTargets(chosen, unknown, known, torch.ones_like(unknown) if scale is None else scale)


@pytest.fixture(scope="module")
def sae(tmp_path_factory):
    return train_sae(sparse_states(), 24, tmp_path_factory.mktemp("sae") / "sae.safetensors", steps=300)


def test_identity_without_margin_is_rmu_with_its_control_as_the_target():
    student = states(dtype=torch.float32)
    rmu, objective = RMU(steering_coefficient=3.0), EncodedMatch()
    expected = rmu(student)
    objective.aim(targets(rmu.control))
    value = objective(student)
    assert torch.equal(value, expected)
    gradients = [torch.autograd.grad(loss, student.features)[0] for loss in (value, expected)]
    assert torch.equal(*gradients)


@pytest.mark.parametrize("rho", [0.0, 0.5])
def test_zero_exactly_at_the_unknown_with_the_margin_met(rho):
    unknown, chosen = torch.tensor([1.0, -2.0]), torch.tensor([4, 1])
    features = torch.randn(9, WIDTH, generator=torch.Generator().manual_seed(1))
    features[:, chosen] = unknown
    student = with_features(states(dtype=torch.float32), features)
    objective = EncodedMatch(rho=rho, margin=4.0)
    objective.aim(targets(unknown, known=unknown + 2.0, chosen=chosen))  # at a distance of exactly the margin
    assert objective(student) == 0
    objective.aim(targets(unknown, known=unknown + 1.0, chosen=chosen))  # at a distance of one
    assert objective(student).item() == pytest.approx(rho * 3.0)
    features[3, 1] += 0.1
    assert objective(student) > rho * 3.0
    features[3, 1] -= 0.1
    features[3, 0] += 7.0  # a latent that was not chosen
    assert objective(student).item() == pytest.approx(rho * 3.0)


def test_the_gradient_passes_through_the_encoder_and_stops_there(sae):
    student = states(width=8, dtype=torch.float32)
    objective = EncodedMatch(sae)
    objective.aim(targets(torch.zeros(24)))
    objective(student).backward()
    assert student.features.grad.abs().max() > 0
    assert list(objective.parameters()) == []
    assert all(buffer.grad is None and not buffer.requires_grad for buffer in objective.buffers())


def test_layers_behind_get_no_gradient(tmp_path):
    network, readout = family("llama"), HiddenStateReadout("layers.0")
    width = readout(network, batch()).features.shape[1]
    objective = EncodedMatch(train_sae(sparse_states(width=width), 20, tmp_path / "sae.safetensors", steps=2))
    objective.aim(targets(torch.ones(20)))
    objective(readout(network, batch())).backward()
    with_gradient = {name for name, p in network.named_parameters() if p.grad is not None}
    assert "model.layers.0.mlp.down_proj.weight" in with_gradient
    assert not any(name.startswith(("model.layers.1", "model.norm", "lm_head")) for name in with_gradient)


def test_targets_are_in_the_state_and_the_encoder_is_not(sae):
    objective, fresh = EncodedMatch(sae), EncodedMatch(sae)
    objective.aim(targets(torch.arange(24.0)))
    assert set(objective.state_dict()) == {"chosen", "unknown", "known", "scale"}
    file = io.BytesIO()
    torch.save(objective.state_dict(), file)
    file.seek(0)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    student = states(width=8)
    assert fresh.is_aimed
    assert torch.equal(fresh(student), objective(student))
    fresh.clear()
    assert not fresh.is_aimed
    fresh.load_state_dict(EncodedMatch().state_dict())  # before the first batch


def test_what_is_missing_is_named():
    with pytest.raises(ValueError, match=r"should know the latents of unknown entities.*`FindLatentTargets\("):
        EncodedMatch()(states())
    objective = EncodedMatch()
    objective.aim(targets(torch.ones(9)))
    with pytest.raises(ValueError, match="should see more than 8 latents, as its targets do. Found 6"):
        objective(states())


class Trainable(Encoder):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(WIDTH, 3)

    def forward(self, states):
        return self.inner(states)


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(TypeError, match="`encoder` should be an `Encoder`, such as `SAE"):
        EncodedMatch(encoder=nn.Identity())
    with pytest.raises(
        ValueError, match="`encoder` should be frozen. Found 2 trainable parameters, `inner.weight` first"
    ):
        EncodedMatch(encoder=Trainable())
    assert isinstance(EncodedMatch(encoder=Trainable().requires_grad_(False)).encoder, Trainable)
    with pytest.raises(ValueError, match="`rho` should be finite and not negative"):
        EncodedMatch(rho=-1.0)
    with pytest.raises(ValueError, match="`margin` should be finite and not negative"):
        EncodedMatch(margin=-1.0)


def test_names_say_what_is_what(sae):
    assert repr(EncodedMatch(sae, rho=1.0)) == f"EncodedMatch(encoder=SAE(path={sae.path!r}), rho=1.0, margin=0.0)"
    assert repr(EncodedMatch()) == f"EncodedMatch(encoder={Identity()!r}, rho=0.0, margin=0.0)"


def test_yaml_builds_it_with_an_encoder(sae):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--objective", type=Objective)
    encoder = f"{{class_path: lightning_unlearn.objectives.encoders.SAE, init_args: {{path: {sae.path}}}}}"
    spec = f"objective: {{class_path: EncodedMatch, init_args: {{encoder: {encoder}, rho: 1}}}}"
    assert repr(parser.instantiate_classes(parser.parse_string(spec)).objective) == repr(EncodedMatch(sae, rho=1.0))
