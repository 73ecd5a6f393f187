"""Whatever the family: losses, gradients and answers are those of each row alone, and shares are what changes."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from _measured_families import (
    EXACT,
    ORDERS,
    Batch,
    alone,
    apart,
    build,
    committed,
    counted,
    decoded,
    differences,
    looks_ahead,
    next_token,
    own,
    own_loss_is_shifted,
    reached,
    read,
    shares,
    shown,
)
from torch import nn

from lightning_unlearn.readouts import CausalLMReadout, PackedCausalLMReadout

# One of each kind: windows, chunks, learned positions, mixtures, state spaces, hybrids, latent attention, parallel blocks.
EXACT_EVERYWHERE = [
    "cohere2",
    "deepseek_v3",
    "falcon",
    "gemma3_text",
    "gpt_oss",
    "jamba",
    "llama",
    "mamba2",
    "mistral",
    "opt",
    "qwen3_next",
    "stablelm",
]
# One of each way in which `generate` differs: tokens that are forced, positions, padding, caches that are not there.
DECODED = [
    "bart",
    "blt",
    "camembert",
    "ctrl",
    "deepseek_v4",
    "git",
    "gpt2",
    "mamba",
    "mixtral",
    "recurrent_gemma",
    "rwkv",
]
READOUTS = (CausalLMReadout, PackedCausalLMReadout)


def largest_difference(network: nn.Module, batches: list[Batch]) -> float:
    """Of both readouts, over batches that each of them sees in turn."""
    truths = [own(network, batch) for batch in batches]
    readouts = [kind() for kind in READOUTS]
    return max(
        max(differences(truth, read(readout, network, batch)[:2]))
        for readout in readouts
        for truth, batch in zip(truths, batches, strict=True)
    )


@pytest.mark.parametrize("family", EXACT_EVERYWHERE)
def test_loss_and_gradient_are_those_of_each_row_alone(family: str) -> None:
    network = build(family)
    for order, batches in ORDERS.items():
        assert largest_difference(network, batches) <= EXACT, order


@pytest.mark.parametrize("family", DECODED)
def test_answers_are_first_choices_with_padding_and_without(family: str) -> None:
    assert decoded(build(family)) == {"padded": True, "alone": True}


@pytest.mark.parametrize("family", ["gpt2", "mixtral", "qwen2"])
def test_attacks_say_which_share_of_the_weights_they_change(family: str) -> None:
    found = shares(build(family))
    for attack in ("quantize", "prune", "adapter"):
        assert found[attack]["said"] == pytest.approx(found[attack]["true"], abs=0.002), attack
    assert found["full"]["true"] == 1


def test_batches_cross_windows_and_come_in_several_orders() -> None:
    longest = [
        max(len(row["input_ids"][0]) for row in alone(batch)) for batches in ORDERS.values() for batch in batches
    ]
    assert max(longest) > 3 * build("mistral").config.sliding_window > 3 * min(longest)
    assert any(batch["attention_mask"][:, 0].eq(0).any() for batch in ORDERS["padding left"])


def test_the_measure_sees_one_wrong_number_in_one_small_tensor() -> None:
    network = build("llama")
    loss, gradient = own(network, ORDERS["mixed"][0])
    wrong = {name: g.clone() for name, g in gradient.items()}
    wrong["model.norm.weight"][0] *= 1.01
    assert differences((loss, gradient), (loss, gradient)) == (0, 0)
    assert differences((loss, gradient), (loss, wrong))[1] > EXACT
    assert differences((loss, gradient), (loss * 1.001, gradient))[0] == pytest.approx(1e-3, rel=0.01)


def test_an_own_loss_that_is_shifted_is_the_next_tokens() -> None:
    network = build("llama")
    assert max(differences(own(network, ORDERS["mixed"][0]), next_token(network, ORDERS["mixed"][0]))) <= EXACT
    assert own_loss_is_shifted(network)
    assert not own_loss_is_shifted(build("bart"))


def test_a_network_that_looks_ahead_is_seen() -> None:
    assert looks_ahead(build("bert", is_decoder=False))
    assert not looks_ahead(build("bert"))


def test_a_weight_counts_as_reached_if_it_changed_or_its_layer_answers_otherwise() -> None:
    original = build("llama")
    live = deepcopy(original)
    with torch.no_grad():
        live.model.layers[0].mlp.up_proj.weight[0, 0] += 1
    handle = live.model.layers[1].self_attn.q_proj.register_forward_hook(lambda _, __, out: out + 1)
    found = [name for name, is_reached in reached(original, live).items() if is_reached]
    handle.remove()
    assert found == ["model.layers.0.mlp.up_proj.weight", "model.layers.1.self_attn.q_proj.weight"]


def test_tied_embeddings_and_vectors_do_not_count_as_weights_to_reach() -> None:
    network = build("gpt2")
    sizes = counted(network, head=True)
    assert "transformer.wte.weight" not in sizes
    assert "transformer.ln_f.weight" not in sizes
    assert sizes["transformer.h.0.attn.c_attn.weight"] == 32 * 96


def test_the_committed_table_shows_all_that_was_measured_and_sixty_families_at_least() -> None:
    found = committed()
    assert len({row["family"] for row in found["families"] if "exact" in row}) >= 60
    assert len(committed_as_exact()) >= 60
    assert all(
        f"| {row['family']}" in shown(found) for row in found["families"] if "exact" in row and not row["refused"]
    )


def committed_as_exact() -> list[str]:
    rows = [row for row in committed()["families"] if "exact" in row and row["own loss is shifted"] is True]
    exact = [row for row in rows if max(apart(row, "plain"), apart(row, "packed")) <= EXACT]
    return [row["family"] for row in exact if "float64" not in str(row["exact"])]


@pytest.mark.slow
@pytest.mark.parametrize("family", committed_as_exact())
def test_what_the_committed_table_calls_exact_is(family: str) -> None:
    network = build(family)
    found = largest_difference(network, ORDERS["padding left"])
    if EXACT < found < 100 * EXACT:  # as the table does: rounding, which is another on each processor, or an error
        found = largest_difference(network.double(), ORDERS["padding left"])
    assert found <= EXACT
