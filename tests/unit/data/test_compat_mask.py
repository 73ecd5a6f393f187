"""Masks as OpenUnlearning's models were trained with: padding equal to the end of turn hides it everywhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from _language_models import _SIZES
from torch.testing import assert_close
from transformers import LlamaConfig, LlamaForCausalLM

from lightning_unlearn import (
    CausalLMReadout,
    Encoding,
    FileRecords,
    LoaderSettings,
    PackedCausalLMReadout,
    QuestionAnswerData,
)


def data(compat: Any, *, pad: bool = False) -> QuestionAnswerData:
    encoding = Encoding("bundled", compat=compat)
    out = QuestionAnswerData(FileRecords("bundled:people"), encoding, LoaderSettings(batch_size=4, shuffle=False))
    # As Llama's tokenizers, which have no padding token.
    if not pad:
        out.encoding.tokenizer.pad_token = None
    return out


def first(source: QuestionAnswerData) -> dict[str, torch.Tensor]:
    return next(iter(source.val_dataloader()))


def network(vocabulary: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(**{**_SIZES, "vocab_size": vocabulary, "max_position_embeddings": 256, "pad_token_id": None})
    model = LlamaForCausalLM(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def test_ends_of_turn_inside_the_prompt_are_hidden() -> None:
    corrected, compat = first(data(None)), first(data("open-unlearning"))
    end = data(None).encoding.tokenizer.eos_token_id
    for batch, row in ((b, r) for b in (compat,) for r in range(4)):
        tokens = batch["input_ids"][row].tolist()
        assert batch["attention_mask"][row].tolist() == [int(token != end) for token in tokens]
        # One in the prompt, one at the end of the answer: the latter is still to be predicted.
        length = int(corrected["attention_mask"][row].sum())
        assert tokens[:length].count(end) == 2
        assert int(batch["attention_mask"][row].sum()) == length - 2
    assert torch.equal(compat["labels"], corrected["labels"])
    assert (compat["labels"] == end).sum() == 4


def test_the_corrected_mask_is_by_length_alone() -> None:
    batch = first(data(None))
    lengths = [len(row["input_ids"]) for row in data(None).dataset][:4]
    assert batch["attention_mask"].sum(1).tolist() == lengths


def test_a_padding_token_of_its_own_hides_nothing() -> None:
    corrected, compat = first(data(None, pad=True)), first(data("open-unlearning", pad=True))
    assert data(None, pad=True).encoding.tokenizer.pad_token_id != data(None).encoding.tokenizer.eos_token_id
    assert all(torch.equal(corrected[name], compat[name]) for name in corrected)


@pytest.mark.parametrize("readout", [CausalLMReadout, PackedCausalLMReadout])
def test_every_label_is_still_predicted_and_as_the_network_sees_it(readout: Any) -> None:
    source = data("open-unlearning")
    batch = first(source)
    model = network(len(source.encoding.tokenizer))
    reader = readout()
    corrected = reader(model, first(data(None)))  # a batch without holes comes first, and is packed
    prediction = reader(model, batch)
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    supervised = batch["labels"][:, 1:] != -100
    assert prediction.labels.tolist() == batch["labels"][:, 1:][supervised].tolist()
    assert_close(prediction.logits, logits[:, :-1][supervised], rtol=1e-9, atol=1e-9)
    assert (prediction.token_nll() - corrected.token_nll()).abs().max() > 1e-3  # the mask matters


def test_hidden_tokens_in_the_answer_still_predict_what_follows() -> None:
    batch = {
        "input_ids": torch.tensor([[5, 6, 2, 7, 2]]),
        "labels": torch.tensor([[-100, 6, 2, 7, 2]]),
        "attention_mask": torch.tensor([[1, 1, 0, 1, 0]]),
    }
    assert CausalLMReadout()(network(10), batch).labels.tolist() == [6, 2, 7, 2]


def test_a_tokenizer_without_any_such_token_and_an_unknown_compat_are_refused() -> None:
    source = data("open-unlearning")
    _ = source.dataset
    source.encoding.tokenizer.eos_token = None
    with pytest.raises(ValueError, match=r"should have a padding or an end-of-turn token.* use `compat=None`"):
        source.val_dataloader()
    with pytest.raises(ValueError, match=r"`compat` should be .* Found `compat = 'tofu'`"):
        data("tofu")
