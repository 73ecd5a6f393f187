"""The networks are those of the papers: parameters, names, and a public checkpoint that works."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from _shared_data import DATA
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from lightning_unlearn import ResNet20, TinyViT
from lightning_unlearn.data import ImageArchive
from lightning_unlearn.models.layers import blocks

WEIGHTS = DATA / "models" / "resnet20_cifar10" / "resnet20-12fca82f.th"
NETWORKS: dict[str, Any] = {"resnet": (ResNet20, (3, 32, 32), "linear"), "vit": (TinyViT, (1, 28, 28), "head")}
every = pytest.mark.parametrize("name", NETWORKS)


@every
def test_a_seed_gives_the_same_network_and_no_draw(name: str) -> None:
    make, shape, _ = NETWORKS[name]
    state = torch.get_rng_state()
    one, same, other = make(seed=1), make(seed=1), make(seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), same.parameters(), strict=True))
    x = torch.ones(2, *shape)
    assert not torch.equal(one(x), other(x))


@every
def test_logits_are_the_head_of_the_features(name: str) -> None:
    make, shape, head = NETWORKS[name]
    network = make(classes=7).eval()
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    assert network(x).shape == (3, 7)
    assert_close(network(x), network.get_submodule(head)(network.features(x)))


@every
def test_selectors_find_its_blocks(name: str) -> None:
    assert len(blocks(NETWORKS[name][0]())) == {"resnet": 9, "vit": 3}[name]


def test_twenty_layers() -> None:
    layers = [m for m in ResNet20().modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == 20


def test_a_transformer_does_not_care_where_its_parameters_are_but_where_patches_are() -> None:
    """Without positions it would say the same of shuffled patches."""
    network, x = TinyViT(patch=14).eval(), torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    shuffled = torch.cat([x[:, :, 14:], x[:, :, :14]], 2)  # upper and lower half change places
    assert not torch.allclose(network(x), network(shuffled), atol=1e-4)
    with torch.no_grad():
        network.positions.zero_()
    assert_close(network(x), network(shuffled), rtol=0, atol=1e-5)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="`patch` should divide `size`.* Found 5, 28, 4, 48"):
        TinyViT(patch=5)


@pytest.mark.slow
@pytest.mark.skipif(not WEIGHTS.exists(), reason="needs the public ResNet-20; set LIGHTNING_UNLEARN_DATA")
def test_public_weights_load_and_tell_cifar10() -> None:
    """81 % on JPEG copies, by the note beside the weights, where the originals give 92 %."""
    state = torch.load(WEIGHTS, weights_only=True, map_location="cpu")["state_dict"]
    network = ResNet20().eval()
    network.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})
    images = ImageArchive(str(DATA / "cifar10" / "cifar10_subset_jpg.zip"), "test", most=30).load()
    with torch.no_grad():
        right = F.one_hot(network(images.images).argmax(1), 10)[torch.arange(300), images.labels].float().mean()
    assert 0.74 < right < 0.88
