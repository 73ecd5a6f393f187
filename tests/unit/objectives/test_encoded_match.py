"""Steering latents of an encoder to those of unknown entities."""

from __future__ import annotations

import io

import pytest
import torch
from _language_models import batch, family
from _states import WIDTH, states, with_features
from safetensors.torch import load_file, save_file
from torch import nn
from torch.testing import assert_close

from lightning_unlearn.objectives import RMU, EncodedMatch
from lightning_unlearn.objectives.encoders import (
    PCA,
    SAE,
    Encoder,
    Identity,
    LatentTargets,
    find_targets,
    fit_pca,
    train_sae,
)
from lightning_unlearn.readouts import HiddenStateReadout


def targets(unknown, known=None, scale=None, chosen=None):
    chosen = torch.arange(len(unknown)) if chosen is None else chosen
    known = unknown + 10 if known is None else known
    return LatentTargets(chosen, unknown, known, torch.ones_like(unknown) if scale is None else scale)


def hidden(rows=400, width=8, seed=0):
    """States that are sparse in a basis of their own: each is a sum of one or two of twelve directions."""
    generator = torch.Generator().manual_seed(seed)
    basis = nn.functional.normalize(torch.randn(12, width, generator=torch.Generator().manual_seed(9)), dim=1)
    codes = torch.rand(rows, 12, generator=generator) * (torch.rand(rows, 12, generator=generator) < 0.12)
    return codes @ basis + 0.5


@pytest.fixture(scope="module")
def sae(tmp_path_factory):
    return train_sae(hidden(), 24, tmp_path_factory.mktemp("sae") / "sae.safetensors", steps=300)


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
    objective = EncodedMatch(train_sae(hidden(width=width), 20, tmp_path / "sae.safetensors", steps=2))
    objective.aim(targets(torch.ones(20)))
    objective(readout(network, batch())).backward()
    with_gradient = {name for name, p in network.named_parameters() if p.grad is not None}
    assert "model.layers.0.mlp.down_proj.weight" in with_gradient
    assert not any(name.startswith(("model.layers.1", "model.norm", "lm_head")) for name in with_gradient)


def test_a_trained_autoencoder_is_sparse_and_finds_the_states_again(sae):
    new = hidden(seed=5)
    with torch.no_grad():
        latents = sae(new)
        missed = (sae.decode(latents) - new).square().sum() / (new - new.mean(0)).square().sum()
    assert missed < 0.2
    assert (latents > 1e-6).float().mean() < 0.5
    assert_close(sae.decoder.norm(dim=1), torch.ones(24))


def test_the_same_seed_trains_the_same_autoencoder_and_draws_nothing(tmp_path):
    state = torch.get_rng_state()
    made = [train_sae(hidden(), 8, tmp_path / f"{n}.safetensors", steps=3, seed=s) for n, s in enumerate([1, 1, 2])]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(made[0].encoder, made[1].encoder)
    assert not torch.equal(made[0].encoder, made[2].encoder)


def test_an_autoencoder_by_hand(sae):
    """The file is all there is to it."""
    t, h = load_file(sae.path), hidden(3, seed=2)
    x = (h - t["mean"]) / t["scale"]
    expected = torch.stack([(t["encoder"].T @ row + t["bias"]).clamp(min=0) for row in x])
    assert_close(sae(h), expected)
    assert sae(h).dtype == torch.float32
    assert sae(h.double()).dtype == torch.float64


def test_pca_gives_uncorrelated_scores_of_falling_variance(tmp_path):
    states_, path = hidden(), tmp_path / "pca.safetensors"
    scores = fit_pca(states_, 3, path)(states_).double()
    covariance = torch.cov(scores.T)
    largest = torch.linalg.eigvalsh(torch.cov(states_.double().T)).flip(0)[:3]
    assert_close(covariance, torch.diag(largest), rtol=1e-4, atol=1e-5)
    assert_close(PCA(path)(states_), scores.float())
    with pytest.raises(ValueError, match="`size` should be at most 8.* Found `size = 9`"):
        fit_pca(states_, 9, path)


def test_chosen_latents_separate_every_type_of_entity():
    known = {"city": torch.tensor([[1.0, 1, 0, 1, 1], [1, 0, 0, 1, 1]]), "film": torch.tensor([[1.0, 0, 0, 1, 1]])}
    unknown = {"city": torch.tensor([[0.0, 0, 1, 0, 1], [0, 0, 1, 0, 1]]), "film": torch.tensor([[0.0, 1, 1, 0, 1]])}
    # Latent 1 tells cities apart and gets films wrong; latent 3 is active in ordinary text.
    neutral = torch.tensor([[0.0, 0, 0, 1, 0]] * 3 + [[0.0] * 5] * 97)
    found = find_targets(known, unknown, neutral, count=1)
    assert found.chosen.tolist() == [0, 2]
    assert_close(found.known, torch.tensor([1.0, 0.0]))
    assert_close(found.unknown, torch.tensor([0.0, 1.0]))
    assert_close(found.scale, torch.tensor([0.5, 0.5]))
    assert find_targets(known, unknown, neutral, count=1, activity=0.03).chosen.tolist() == [0, 2]
    assert find_targets(known, unknown, count=2).chosen.tolist() == [0, 2, 3, 4]
    everything = find_targets(known, unknown)
    assert everything.chosen.tolist() == [0, 1, 2, 3, 4]
    assert everything.scale[4] == 1  # a constant


def test_targets_that_cannot_be_found_are_refused():
    latents = torch.ones(2, 3)
    with pytest.raises(ValueError, match="should have the same types of entities. Found city, and film"):
        find_targets({"city": latents}, {"film": latents})
    with pytest.raises(ValueError, match=r"At least `count = 1` latents .* Found 0 of 3"):
        find_targets({"city": latents}, {"city": latents}, neutral=latents, count=1)


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


def test_settings_that_make_no_sense_are_refused(tmp_path):
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
    save_file({"mean": torch.zeros(2)}, tmp_path / "half.safetensors")
    with pytest.raises(ValueError, match=r"`SAE` should find the tensors `mean`.* Found `mean` .*`train_sae\(states"):
        SAE(tmp_path / "half.safetensors")
    with pytest.raises(FileNotFoundError, match="Found nothing at"):
        PCA(tmp_path / "nowhere.safetensors")


def test_names_say_what_is_what(sae):
    assert repr(EncodedMatch(sae, rho=1.0)) == f"EncodedMatch(encoder=SAE(path={sae.path!r}), rho=1.0, margin=0.0)"
    assert repr(EncodedMatch()) == f"EncodedMatch(encoder={Identity()!r}, rho=0.0, margin=0.0)"
