"""One readout for models of images and text: rows are those of the model's own loss, whatever it puts before the tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from _image_text_models import IMAGE, IMAGE_TEXT_MODELS, image_batch, image_text_model
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from lightning_unlearn import CausalLMReadout, LoRA, PackedCausalLMReadout
from lightning_unlearn.readouts import Draws, LayersReadout, choose_readout, greedy_answers, sampled_answers
from lightning_unlearn.runtime import eval_without_grad

CAUSAL = [name for name in IMAGE_TEXT_MODELS if name != "paligemma"]
every_model = pytest.mark.parametrize("name", CAUSAL)
READOUTS = [CausalLMReadout(), CausalLMReadout(keep_features=True), PackedCausalLMReadout()]


@every_model
@pytest.mark.parametrize("readout", READOUTS, ids=str)
def test_the_mean_over_rows_is_the_models_own_loss(name: str, readout: CausalLMReadout) -> None:
    network, batch = image_text_model(name), image_batch(name)
    read = readout(readout.find_network(network), batch)
    assert_close(F.cross_entropy(read.logits, read.labels), network(**batch).loss, rtol=1e-5, atol=1e-6)


@every_model
def test_gradients_are_those_of_the_models_own_loss(name: str) -> None:
    network, batch = image_text_model(name), image_batch(name)
    read = CausalLMReadout()(network, batch)
    losses = [F.cross_entropy(read.logits, read.labels), network(**batch).loss]
    trained = [p for p in network.parameters() if p.requires_grad]
    found, own = (torch.autograd.grad(loss, trained, allow_unused=True, materialize_grads=True) for loss in losses)
    assert any(float(g.abs().max()) > 1e-4 for g in own[:4])  # the image's side learns, too
    for one, other in zip(found, own, strict=True):
        assert_close(one, other, rtol=1e-3, atol=1e-5)


@every_model
def test_each_row_stands_before_its_label(name: str) -> None:
    """Written differently: the model's full logits, row by row, the label's position counted from the end."""
    network, batch = image_text_model(name), image_batch(name)
    read = CausalLMReadout()(network, batch)
    given = {k: v for k, v in batch.items() if k != "labels"}
    full = network(**given).logits
    width = batch["labels"].shape[1]
    places = [
        (row, column)
        for row, labels in enumerate(batch["labels"].tolist())
        for column, y in enumerate(labels)
        if y >= 0
    ]
    assert read.labels.tolist() == [int(batch["labels"][place]) for place in places]
    expected = torch.stack([full[row, full.shape[1] - width + column - 1] for row, column in places])
    assert_close(read.logits, expected, rtol=1e-4, atol=1e-5)


@every_model
def test_padding_changes_nothing(name: str) -> None:
    network, batch = image_text_model(name), image_batch(name)
    read = CausalLMReadout()(network, batch)
    for padded in (_padded(batch, left=0, right=3), _left(batch)):
        assert_close(CausalLMReadout()(network, padded).logits, read.logits, rtol=1e-4, atol=1e-5)


@every_model
def test_keys_tell_images_apart(name: str) -> None:
    one, readout = image_batch(name), CausalLMReadout()
    other = {**one, "pixel_values": one["pixel_values"].flip(0)}
    assert len({*readout.keys(one), *readout.keys(other)}) == 5  # the middle one stays


@every_model
def test_other_answers_keep_the_image(name: str) -> None:
    network, batch, readout = image_text_model(name), image_batch(name), CausalLMReadout()
    answers = [exchange.answer for exchange in readout.exchanges(batch) or []]
    again = readout.with_answers(batch, answers)
    assert_close(readout(network, again).logits, readout(network, batch).logits, rtol=1e-4, atol=1e-5)


def test_hidden_states_are_those_of_the_tokens() -> None:
    network: Any = image_text_model("ours")
    batch = image_batch("ours")
    last = LayersReadout([r"layers\.1"])(network, batch).features
    states = network(**batch, output_hidden_states=True).hidden_states
    before_norm: list[Tensor] = []
    handle = network.language_model.model.norm.register_forward_pre_hook(lambda _, args: before_norm.append(args[0]))
    network(**batch)
    handle.remove()
    assert states[-1].shape[1] == batch["labels"].shape[1] + 4
    assert_close(last[:, 0], before_norm[0][:, 4:][batch["labels"] != -100], rtol=1e-5, atol=1e-5)


@every_model
@pytest.mark.parametrize("wrapped", [False, True])
def test_answers_are_said_to_the_image(name: str, wrapped: bool) -> None:
    network: Any = image_text_model(name)
    network = LoRA(r=2, target_modules=["q_proj"]).wrap(network).eval() if wrapped else network
    batch = image_batch(name)
    said = greedy_answers(network, batch, end=[2], max_new_tokens=4)
    with eval_without_grad(network):
        for row, answer in enumerate(said):
            asked = int((batch["labels"][row] >= 0).int().argmax())
            tokens, given = batch["input_ids"][[row], :asked], batch["pixel_values"][[row]]
            for token in answer.tolist():
                assert int(network(input_ids=tokens, pixel_values=given).logits[0, -1].argmax()) == token
                tokens = torch.cat([tokens, torch.tensor([[token]])], dim=1)


def test_a_mark_of_an_image_that_is_said_ends_the_answer() -> None:
    """Some models refuse tokens with more marks than images; a network that has forgotten may say anything."""
    network: Any = image_text_model("idefics3")
    with torch.no_grad():  # it says a mark, or a 5
        network.lm_head.weight.zero_()
        network.lm_head.weight[IMAGE] = torch.arange(16.0) - 7.5
        network.lm_head.weight[5] = -network.lm_head.weight[IMAGE]
    said = greedy_answers(network, image_batch("idefics3", lengths=(9, 9, 8, 7)), end=[2], max_new_tokens=4)
    assert all(set(answer.tolist()) <= {5} for answer in said)
    assert any(len(answer) < 4 for answer in said)


def test_drawn_answers_depend_on_the_image() -> None:
    network, batch = image_text_model("ours"), image_batch("ours")
    other = {**batch, "pixel_values": 3 * batch["pixel_values"].flip(0)}
    one, again, seen = (
        sampled_answers(network, b, Draws([1, 2, 3]), end=[], max_new_tokens=6) for b in (batch, batch, other)
    )
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one, seen, strict=True))


@every_model
def test_the_readout_is_found_by_itself(name: str) -> None:
    assert type(choose_readout(image_text_model(name))) is PackedCausalLMReadout


def test_a_model_that_looks_ahead_is_refused_by_name() -> None:
    with pytest.raises(
        ValueError, match="`PaliGemmaForConditionalGeneration`, whose predictions change with later tokens"
    ):
        CausalLMReadout().find_network(image_text_model("paligemma"))


def _padded(batch: dict[str, Tensor], *, left: int, right: int) -> dict[str, Tensor]:
    fill = {"input_ids": 0, "attention_mask": 0, "labels": -100}
    return {k: F.pad(v, (left, right), value=fill[k]) if k in fill else v for k, v in batch.items()}


def _left(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same rows, padded on the left."""
    lengths = batch["attention_mask"].sum(1).tolist()
    width = batch["labels"].shape[1]

    def rolled(value: Tensor) -> Tensor:
        return torch.stack([row.roll(width - n) for row, n in zip(value, lengths, strict=True)])

    return {k: rolled(v) if v.dim() == 2 else v for k, v in batch.items()}
