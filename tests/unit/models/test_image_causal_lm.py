"""An image before a language model: every weight is as given, nothing is drawn, and a folder loads as what was saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from _image_text_models import image_batch, image_text_model
from _language_models import FAMILIES, family
from torch import nn
from torch.testing import assert_close

from lightning_unlearn import ImageCausalLM, LoRA, PatchEncoder, TinyCausalLM
from lightning_unlearn.models import refuse_other_weights
from lightning_unlearn.models.layers import is_tied
from lightning_unlearn.runtime import eval_without_grad

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
TOKENS = torch.tensor([[5, 6, 7, 8], [9, 4, 3, 11]])


def ours(lm: nn.Module | None = None) -> Any:
    return ImageCausalLM(lm or TinyCausalLM(hidden_size=32, num_hidden_layers=2), PatchEncoder(8, 4, 3, 16)).eval()


@pytest.mark.parametrize("name", FAMILIES)
def test_it_is_the_language_model_on_the_embeddings_of_both(name: str) -> None:
    lm: Any = family(name).eval()
    network = ours(lm)
    states = torch.cat([network.projector(network.encoder(IMAGES)), lm.get_input_embeddings()(TOKENS)], dim=1)
    found = network(TOKENS, pixel_values=IMAGES).logits
    assert_close(found, lm(inputs_embeds=states).logits, rtol=0, atol=0)
    assert found.shape[1] == network.encoder.positions + TOKENS.shape[1]


def test_without_an_image_it_is_the_language_model() -> None:
    lm = TinyCausalLM(hidden_size=32).eval()
    assert torch.equal(ours(lm)(TOKENS).logits, lm(TOKENS).logits)


def test_weights_are_those_given_and_no_random_state_moves() -> None:
    lm, encoder = TinyCausalLM(hidden_size=32, seed=3), PatchEncoder(8, 4, 3, 16, seed=5)
    before = {name: value.clone() for part in (lm, encoder) for name, value in part.state_dict().items()}
    state = torch.get_rng_state()
    network: Any = ImageCausalLM(lm, encoder)
    assert torch.equal(torch.get_rng_state(), state)
    after = {**network.language_model.state_dict(), **network.encoder.state_dict()}
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert network.language_model is lm
    again: Any = ImageCausalLM(TinyCausalLM(hidden_size=32, seed=3), PatchEncoder(8, 4, 3, 16, seed=5))
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in again.state_dict().items())


def test_the_language_model_attends_as_before() -> None:
    lm: Any = TinyCausalLM(hidden_size=32)
    lm.set_attn_implementation("eager")
    network = ours(lm)
    assert {lm.config._attn_implementation, network.config._attn_implementation} == {"eager"}


def test_given_positions_are_those_of_the_tokens() -> None:
    network = ours()
    places = torch.arange(4).expand(2, -1)
    given = network(TOKENS, pixel_values=IMAGES, position_ids=places).logits
    assert_close(given, network(TOKENS, pixel_values=IMAGES).logits, rtol=0, atol=0)


@pytest.mark.parametrize("tied", [True, False])
def test_a_saved_folder_is_the_same_network(tmp_path: Path, tied: bool) -> None:
    network = ours(TinyCausalLM(hidden_size=32) if tied else family("llama"))
    assert is_tied(network) == tied
    network.save_pretrained(tmp_path)
    refuse_other_weights(str(tmp_path), network)
    again = type(network).from_pretrained(tmp_path).eval()
    assert torch.equal(again(TOKENS, pixel_values=IMAGES).logits, network(TOKENS, pixel_values=IMAGES).logits)


@pytest.mark.parametrize("wrapped", [False, True])
def test_it_says_after_an_image_what_is_likeliest(wrapped: bool) -> None:
    network = image_text_model("ours")
    network = LoRA(r=2).wrap(network).eval() if wrapped else network
    batch = image_batch("ours", lengths=(6, 6))
    del batch["labels"]
    with eval_without_grad(network):
        said = network.generate(**batch, max_new_tokens=3, do_sample=False, eos_token_id=None)  # type: ignore[operator]
        tokens = batch["input_ids"]
        for _ in range(3):
            logits = network(tokens, pixel_values=batch["pixel_values"]).logits
            tokens = torch.cat([tokens, logits[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(said, tokens)


def test_rows_have_the_room_that_the_image_leaves() -> None:
    network = ours()
    assert network.config.max_position_embeddings == network.language_model.config.max_position_embeddings - 4


def test_an_adapter_inside_is_refused() -> None:
    with pytest.raises(ValueError, match=r"should have no adapter. Found a `Peft.*LoRA\(\).wrap\(ImageCausalLM"):
        ImageCausalLM(LoRA(r=2).wrap(TinyCausalLM(hidden_size=32)), PatchEncoder())


def test_what_is_no_language_model_is_refused() -> None:
    with pytest.raises(ValueError, match="should be a causal language model of transformers. Found a `Linear`"):
        ImageCausalLM(nn.Linear(2, 2), PatchEncoder())


@pytest.mark.parametrize(("size", "patch"), [(28, 3), (28, 8), (9, 3)])
def test_patches_that_do_not_fit_are_refused(size: int, patch: int) -> None:
    with pytest.raises(ValueError, match=f"`patch` should be even and divide `size`. Found {patch} and {size}"):
        PatchEncoder(size, patch)


def test_a_patch_of_another_image_leaves_the_others_alone() -> None:
    """Each position sees its patch, and a margin of a few pixels around it."""
    encoder, images = PatchEncoder(size=28, patch=14), torch.zeros(1, 1, 28, 28)
    changed = images.clone()
    changed[..., :8, :8] = 1
    moved = (encoder(changed) - encoder(images)).abs().amax(-1)[0] > 0
    assert moved.tolist() == [True, False, False, False]
