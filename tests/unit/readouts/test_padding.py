"""Padding changes nothing: wherever it stands, whatever number it has, however much there is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as hf
from _families import FAMILIES_OF_MODELS, VOCABULARY, of_family, own_loss_row_by_row, rows
from torch import Tensor
from torch.testing import assert_close

from lightning_unlearn import CausalLMReadout, CrossEntropy, PackedCausalLMReadout
from lightning_unlearn.readouts import HiddenStateReadout, greedy_answers, refuse_foreign_tokens
from lightning_unlearn.readouts._padding import padded_behind

FOREIGN = [VOCABULARY, VOCABULARY + 1000, -1, -100]
READOUTS = [CausalLMReadout, PackedCausalLMReadout]


@pytest.fixture(autouse=True)
def always_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny networks are so narrow that longer attention costs more than fewer tokens save."""
    monkeypatch.setattr("lightning_unlearn.readouts._packed_causal_lm._pays", lambda *_: True)


def padded_with(number: int, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**batch, "input_ids": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, number)}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("number", FOREIGN)
@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("name", ["llama", "gpt2", "mamba", "opt"])
def test_padding_may_have_any_number(name: str, readout: Any, number: int, side: str) -> None:
    network, known = of_family(name), rows((9, 6, 7), shared=4, side=side)
    foreign = padded_with(number, known)
    kept = foreign["input_ids"].clone()
    refuse_foreign_tokens(network, foreign)
    with torch.no_grad():
        assert_close(readout()(network, foreign).logits, readout()(network, known).logits, rtol=0, atol=1e-6)
    assert torch.equal(foreign["input_ids"], kept)  # never in the user's own tensor


def test_without_a_mask_what_follows_the_last_label_is_padding() -> None:
    network, known = of_family("llama"), rows((9, 6, 7), shared=4)
    foreign = padded_with(-100, known)
    batches = [{name: batch[name] for name in ("input_ids", "labels")} for batch in (foreign, known)]
    refuse_foreign_tokens(network, batches[0])
    first, second = (CausalLMReadout()(network, batch).logits for batch in batches)
    assert_close(first, second, rtol=0, atol=0)


def test_hidden_states_and_answers_are_read_past_it_too() -> None:
    network, known = of_family("llama"), rows((9, 6, 7), shared=4, side="left")
    foreign = padded_with(VOCABULARY, known)
    readout = HiddenStateReadout("layers.1")
    assert_close(readout(network, foreign).features, readout(network, known).features, rtol=0, atol=0)
    ours, theirs = (greedy_answers(network, batch, end=[], max_new_tokens=3) for batch in (foreign, known))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("where", ["shown", "supervised"])
def test_tokens_that_matter_still_have_to_be_known(where: str) -> None:
    network, batch = of_family("llama"), rows((9, 6, 7), shared=4)
    row, column = (0, 2) if where == "shown" else (1, 7)
    batch["input_ids"][row, column] = VOCABULARY
    if where == "supervised":
        batch["labels"][row, column] = 5
    with pytest.raises(ValueError, match="Token ids should be from 0 to 47"):
        refuse_foreign_tokens(network, batch)


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("name", FAMILIES_OF_MODELS)
def test_padding_on_the_left_is_as_good_as_on_the_right(name: str, readout: Any) -> None:
    network = of_family(name)
    left, right = (rows((11, 6, 8), shared=4, side=side) for side in ("left", "right"))
    with torch.no_grad():
        first, second = readout()(network, left), readout()(network, right)
    assert torch.equal(first.labels, second.labels)
    assert torch.equal(first.example, second.example)
    assert_close(first.logits, second.logits, rtol=0, atol=1e-5)


def test_rows_are_moved_with_all_that_is_theirs() -> None:
    batch = rows((5, 3), shared=2, side="left")
    batch["token_type_ids"] = torch.arange(10).reshape(2, 5)
    batch["labels"][1, 0] = 7  # a label on padding, which was never predicted
    moved = padded_behind(batch, batch["labels"])
    right = rows((5, 3), shared=2)
    for name in ("input_ids", "attention_mask", "labels"):
        assert torch.equal(moved[name], right[name])
    assert moved["token_type_ids"][1, :3].tolist() == [7, 8, 9]


def test_rows_that_cannot_be_moved_together_stay() -> None:
    for other in (torch.zeros(2, 5, 4), torch.zeros(2, 1, 5, 5)):
        batch: dict[str, Any] = {**rows((5, 3), shared=2, side="left"), "other": other}
        assert padded_behind(batch, batch["labels"]) is batch


def test_pixels_stay_where_rows_move() -> None:
    pixels = torch.randn(2, 3, 4, 4)
    batch: dict[str, Any] = {**rows((5, 3), shared=2, side="left"), "pixel_values": pixels}
    moved = padded_behind(batch, batch["labels"])
    assert moved["pixel_values"] is pixels
    assert torch.equal(moved["input_ids"], rows((5, 3), shared=2)["input_ids"])


def test_present_says_where_the_network_sees_them() -> None:
    left, right = (rows((5, 3), shared=2, side=side) for side in ("left", "right"))
    seen = CausalLMReadout().present(left)
    assert seen is not None
    assert torch.equal(seen, right["attention_mask"].bool())


def test_a_hole_in_the_mask_stays_one() -> None:
    network, batch = of_family("llama"), rows((8, 6), shared=3, side="left")
    batch["attention_mask"][:, 4] = 0
    moved = CausalLMReadout()(network, batch)
    alone = [network(batch["input_ids"][[0]], attention_mask=batch["attention_mask"][[0]]).logits[0, 2:7]]
    assert_close(moved.logits[:5], alone[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_padding_does_not_choose_the_frequencies(kind: str, readout: Any) -> None:
    """Padded to 40, rows of 20 are no longer than what the network was first trained on."""
    if kind == "longrope":
        network: Any = of_family("phi3, longrope")
    else:
        sizes: dict[str, Any] = {"vocab_size": 48, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
        rope = {"rope_type": "dynamic", "factor": 8.0, "rope_theta": 1e4}
        config = hf.LlamaConfig(**sizes, num_attention_heads=2, max_position_embeddings=24, rope_parameters=rope)
        torch.manual_seed(0)
        network = hf.LlamaForCausalLM(config).eval()
        for p in network.parameters():
            p.data.add_(0.1 * torch.randn_like(p))
    batch = rows((20, 17, 19), shared=5)
    wide = {n: torch.nn.functional.pad(v, (0, 20), value=-100 if n == "labels" else 0) for n, v in batch.items()}
    with torch.no_grad():
        expected = own_loss_row_by_row(network, batch)
        assert abs(float(network(**wide).loss - expected)) > 1e-4  # as it would be
        assert_close(CrossEntropy()(readout()(network, wide)), expected, rtol=0, atol=1e-5)
