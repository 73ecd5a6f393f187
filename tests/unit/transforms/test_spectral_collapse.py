"""Which weights `SpectralCollapse` collapses, as which matrices, and how often it looks for directions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from _language_models import family
from torch import Tensor, nn
from torch.testing import assert_close
from transformers.pytorch_utils import Conv1D

from lightning_unlearn.functional.spectral import collapse
from lightning_unlearn.transforms import SpectralCollapse


def collapsed(network: nn.Module, transform: SpectralCollapse) -> dict[str, tuple[Tensor, Tensor]]:
    """Random gradients before and after, by the parameter's name."""
    transform.attach(network)
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    before = {name: torch.randn(p.shape, dtype=torch.float64) for name, p in trained.items()}
    after = transform([g.clone() for g in before.values()], list(trained.values()))
    return {name: (g, h) for (name, g), h in zip(before.items(), after, strict=True)}


def changed(network: nn.Module, transform: SpectralCollapse) -> set[str]:
    return {name for name, (before, after) in collapsed(network, transform).items() if not torch.equal(before, after)}


@pytest.mark.parametrize("kind", ["hard", "soft", "both", "quadratic"])
def test_a_linear_layers_gradient_is_collapsed_and_its_bias_stays(kind: Any) -> None:
    found = collapsed(nn.Sequential(nn.Linear(9, 7), nn.LayerNorm(7)), SpectralCollapse(q=3, kind=kind))
    before, after = found.pop("0.weight")
    assert_close(after, collapse(before, 3, kind))
    assert not torch.equal(after, before)
    assert all(torch.equal(*pair) for pair in found.values())


def test_a_fraction_counts_the_smaller_side_and_is_rounded_up() -> None:
    layers = nn.Sequential(nn.Linear(30, 40), nn.Linear(40, 31))
    found = collapsed(layers, SpectralCollapse(fraction=0.1))
    assert_close(found["0.weight"][1], collapse(found["0.weight"][0], 3))
    assert_close(found["1.weight"][1], collapse(found["1.weight"][0], 4))


@pytest.mark.parametrize("settings", [{"q": 0}, {"fraction": 0.0}], ids=str)
def test_no_direction_changes_nothing_to_the_bit(settings: Any) -> None:
    assert changed(nn.Linear(9, 7), SpectralCollapse(**settings)) == set()


def test_a_convolution_has_one_row_for_each_output() -> None:
    found = collapsed(nn.Conv2d(3, 5, 2), SpectralCollapse(q=2))
    before, after = found["weight"]
    assert_close(after, collapse(before.reshape(5, 12), 2).reshape(before.shape))


def test_a_transposed_convolution_has_its_outputs_second() -> None:
    before, after = collapsed(nn.ConvTranspose2d(3, 5, 2), SpectralCollapse(q=2))["weight"]
    by_rows = collapse(before.transpose(0, 1).reshape(5, 12), 2)
    assert_close(after, by_rows.reshape(5, 3, 2, 2).transpose(0, 1))


def test_which_side_is_which_does_not_matter_to_a_matrix() -> None:
    before, after = collapsed(Conv1D(6, 9), SpectralCollapse(q=2))["weight"]
    assert_close(after, collapse(before, 2))


def test_each_fused_expert_is_collapsed_by_itself() -> None:
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.num_experts = 3
            self.down_proj = nn.Parameter(torch.zeros(3, 6, 8))

    before, after = collapsed(Experts(), SpectralCollapse(q=2))["down_proj"]
    assert_close(after, torch.stack([collapse(expert, 2) for expert in before]))


def test_embeddings_and_heads_are_left_alone_unless_they_are_named() -> None:
    network = family("llama")
    matrices = {name for name, p in network.named_parameters() if p.dim() == 2}
    tables = {"model.embed_tokens.weight", "lm_head.weight"}
    assert changed(network, SpectralCollapse(q=2)) == matrices - tables
    assert changed(network, SpectralCollapse(q=2, pattern="lm_head")) == {"lm_head.weight"}
    assert changed(network, SpectralCollapse(q=2, pattern=["mlp", "embed_tokens"])) == {
        name for name in matrices if "mlp" in name or "embed" in name
    }


def test_a_tied_head_is_an_embedding_by_any_of_its_names() -> None:
    network = family("gpt2")
    assert "transformer.wte.weight" not in changed(network, SpectralCollapse(q=2))
    assert changed(network, SpectralCollapse(q=2, pattern="lm_head")) == {"transformer.wte.weight"}


def test_a_weight_that_is_computed_from_others_is_left_alone() -> None:
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(5, 5))
    layers = nn.Sequential(normed, nn.Linear(5, 5))
    assert changed(layers, SpectralCollapse(q=2)) == {"1.weight"}


def test_factors_of_adapters_are_refused_by_name() -> None:
    network = family("llama", lora=True)
    message = (
        r"gradients of whole weights. Found `.*q_proj.lora_A.default.weight`, a factor of an adapter.* without `lora`"
    )
    with pytest.raises(NotImplementedError, match=message):
        SpectralCollapse().attach(network)


def test_a_matrix_beside_an_adapter_can_be_chosen() -> None:
    network = family("llama", lora=True)
    network.base_model.model.model.layers[0].mlp.down_proj.weight.requires_grad_(True)
    name = "base_model.model.model.layers.0.mlp.down_proj.weight"
    assert changed(network, SpectralCollapse(q=2, pattern="mlp")) == {name}


@pytest.mark.parametrize(
    ("network", "settings", "message"),
    [
        (
            nn.LayerNorm(3),
            {},
            r"a matrix other than embeddings and output heads. Found none.*matrices are: none",
        ),
        (
            nn.Linear(3, 3),
            {"pattern": "mlp"},
            r"whose name fits \['mlp'\]. Found none; the matrices are: `weight`",
        ),
    ],
    ids=["no matrix", "no name"],
)
def test_nothing_to_collapse_is_refused(network: nn.Module, settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpectralCollapse(**settings).attach(network)


def test_a_matrix_that_is_unfrozen_later_is_collapsed_too() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    collapse = SpectralCollapse(q=1, pattern="0")
    network[0].requires_grad_(False)
    with pytest.warns(UserWarning, match="should find a trained matrix. Found `0.weight` and 0 others, all frozen"):
        collapse.attach(network)
    network[0].requires_grad_(True)
    assert collapse.changes(network[0].weight)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"q": 3, "fraction": 0.1}, "Either `q` or `fraction` should be given. Found `q = 3` and `fraction = 0.1`"),
        ({"q": -1}, "`q` should be at least 0. Found `q = -1`"),
        ({"q": 0.5}, "`q` should be a whole number. Found `q = 0.5`"),
        ({"fraction": 1.5}, "`fraction` should be between 0 and 1. Found `fraction = 1.5`"),
        ({"kind": "harder"}, r"`kind` should be one of \('hard', .*Found `kind = 'harder'`"),
        ({"refresh_every": 0}, "`refresh_every` should be at least 1"),
    ],
    ids=str,
)
def test_wrong_settings_are_refused(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpectralCollapse(**settings)


def calls(transform: SpectralCollapse, network: nn.Linear, gradients: Tensor) -> list[Tensor]:
    return [transform([g.clone()], [network.weight])[0] for g in gradients]


def test_directions_are_kept_for_so_many_steps() -> None:
    network, gradients = nn.Linear(6, 5, bias=False), torch.randn(7, 5, 6, dtype=torch.float64)
    transform = SpectralCollapse(q=2, refresh_every=3)
    transform.attach(network)
    kept = [torch.linalg.svd(gradients[i]) for i in (0, 3, 6)]
    for step, found in enumerate(calls(transform, network, gradients)):
        left, _, right = kept[step // 3]
        # Neither the kept outputs nor the kept inputs are moved along.
        assert_close(left[:, :2].mT @ found, torch.zeros(2, 6, dtype=torch.float64))
        assert_close(found @ right[:2].mT, torch.zeros(5, 2, dtype=torch.float64))


def test_kept_directions_come_back() -> None:
    network, gradients = nn.Linear(6, 5, bias=False), torch.randn(7, 5, 6)
    whole, first, resumed = (SpectralCollapse(q=2, kind="both", refresh_every=4) for _ in range(3))
    for transform in (whole, first, resumed):
        transform.attach(network)
    expected = calls(whole, network, gradients)
    calls(first, network, gradients[:2])
    resumed.load_state_dict(first.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(calls(resumed, network, gradients[2:]), expected[2:], strict=True))
    assert SpectralCollapse().state_dict() == {}


def test_nothing_is_held_if_directions_are_new_in_each_step() -> None:
    network = nn.Linear(6, 5, bias=False)
    transform = SpectralCollapse(q=2)
    transform.attach(network)
    calls(transform, network, torch.randn(3, 5, 6))
    assert not transform.state_dict()
    assert not transform._filters
