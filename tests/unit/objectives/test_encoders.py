"""Latent spaces of hidden states: what every encoder promises, how they are trained, and which latents are chosen."""

from __future__ import annotations

import pytest
import torch
from _states import sparse_states
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from lightning_unlearn.objectives.encoders import PCA, SAE, Identity, find_targets, fit_pca, train_sae

ENCODERS = {
    "identity": lambda folder: Identity(),
    "pca": lambda folder: fit_pca(sparse_states(), 3, folder / "pca.safetensors"),
    "sae": lambda folder: train_sae(sparse_states(), 24, folder / "sae.safetensors", steps=3),
}


@pytest.fixture(scope="module", params=ENCODERS)
def encoder(request, tmp_path_factory):
    return ENCODERS[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def sae(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sae")
    return train_sae(sparse_states(), 24, folder / "sae.safetensors", steps=300, sparsity=0.1)


def test_rows_are_encoded_one_by_one_and_differentiably(encoder):
    states = sparse_states(5).double().requires_grad_()
    latents = encoder(states)
    assert latents.shape[0] == 5
    assert latents.dtype == torch.float64
    assert_close(torch.cat([encoder(row) for row in states.split(1)]), latents)
    latents.square().sum().backward()
    assert states.grad.abs().max() > 0


def test_encoders_are_frozen_and_in_no_checkpoint(encoder):
    assert list(encoder.parameters()) == []
    assert encoder.state_dict() == {}
    assert not any(buffer.requires_grad for buffer in encoder.buffers())


def test_what_a_file_holds_makes_the_same_encoder(encoder):
    if hasattr(encoder, "path"):
        again = type(encoder)(encoder.path)
        assert torch.equal(again(sparse_states(4)), encoder(sparse_states(4)))
        assert repr(again) == repr(encoder) == f"{type(encoder).__name__}(path={encoder.path!r})"
    else:
        assert repr(encoder) == "Identity()"


def test_files_of_something_else_are_refused(tmp_path):
    save_file({"mean": torch.zeros(2)}, tmp_path / "half.safetensors")
    with pytest.raises(ValueError, match=r"`SAE` should find the tensors `mean`.* Found `mean` .*`train_sae\(states"):
        SAE(tmp_path / "half.safetensors")
    with pytest.raises(FileNotFoundError, match="Found nothing at"):
        PCA(tmp_path / "nowhere.safetensors")


def test_a_trained_autoencoder_is_sparse_and_finds_the_states_again(sae):
    new = sparse_states(seed=5)
    with torch.no_grad():
        latents = sae(new)
        missed = (sae.decode(latents) - new).square().sum() / (new - new.mean(0)).square().sum()
    assert missed < 0.2
    assert (latents > 1e-6).float().mean() < 0.5
    assert_close(sae.decoder.norm(dim=1), torch.ones(24))


def test_the_same_seed_trains_the_same_autoencoder_and_draws_nothing(tmp_path):
    state = torch.get_rng_state()
    made = [
        train_sae(sparse_states(), 8, tmp_path / f"{n}.safetensors", steps=3, seed=s) for n, s in enumerate([1, 1, 2])
    ]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(made[0].encoder, made[1].encoder)
    assert not torch.equal(made[0].encoder, made[2].encoder)


def test_an_autoencoder_by_hand(sae):
    """The file is all there is to it."""
    t, h = load_file(sae.path), sparse_states(3, seed=2)
    x = (h - t["mean"]) / t["scale"]
    expected = torch.stack([(t["encoder"].T @ row + t["bias"]).clamp(min=0) for row in x])
    assert_close(sae(h), expected)
    assert sae(h).dtype == torch.float32
    assert sae(h.double()).dtype == torch.float64


def test_pca_gives_uncorrelated_scores_of_falling_variance(tmp_path):
    states_, path = sparse_states(), tmp_path / "pca.safetensors"
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


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"size": 0}, "`size` should be at least 1"),
        ({"sparsity": -1.0}, "`sparsity` should be finite and not negative"),
    ],
    ids=str,
)
def test_training_that_makes_no_sense_is_refused(setting, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        train_sae(sparse_states(), path=tmp_path / "sae.safetensors", **{"size": 4, **setting})
