"""Encoder-decoders: loss and gradient are Hugging Face's own; questions, answers and keys are what they should be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import transformers as hf
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.data import DataLoader

from lightning_unlearn import (
    NPO,
    CrossEntropy,
    EncoderDecoderReadout,
    ForgetRetainData,
    LoRA,
    PackedCausalLMReadout,
    Unlearn,
    UnlearningModule,
)
from lightning_unlearn.readouts import choose_readout, greedy_answers, has_answer, refuse_foreign_tokens

V = 40
BART: dict[str, Any] = {"vocab_size": V, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1}
BART |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24}
BART |= {"max_position_embeddings": 64, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "dropout": 0.0}
T5: dict[str, Any] = {"vocab_size": V, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}
T5 |= {"decoder_start_token_id": 0, "dropout_rate": 0.0, "pad_token_id": 0, "eos_token_id": 1}

MODELS: dict[str, Callable[[], nn.Module]] = {
    "t5": lambda: hf.T5ForConditionalGeneration(hf.T5Config(**T5)),
    "t5, head of its own": lambda: hf.T5ForConditionalGeneration(
        hf.T5Config(**T5, tie_word_embeddings=False, feed_forward_proj="gated-gelu")
    ),
    "mt5": lambda: hf.MT5ForConditionalGeneration(hf.MT5Config(**T5)),
    "bart": lambda: hf.BartForConditionalGeneration(hf.BartConfig(**BART, decoder_start_token_id=2)),
    "mbart": lambda: hf.MBartForConditionalGeneration(hf.MBartConfig(**BART)),
    "pegasus": lambda: hf.PegasusForConditionalGeneration(hf.PegasusConfig(**BART, decoder_start_token_id=1)),
    "marian": lambda: hf.MarianMTModel(hf.MarianConfig(**BART, decoder_start_token_id=1)),
    "blenderbot, no method": lambda: hf.BlenderbotForConditionalGeneration(
        hf.BlenderbotConfig(**BART, decoder_start_token_id=0)
    ),
    "m2m, no method": lambda: hf.M2M100ForConditionalGeneration(hf.M2M100Config(**BART, decoder_start_token_id=2)),
}


def model(name: str = "t5") -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = MODELS[name]().eval()
        for p in network.parameters():
            if p.requires_grad:
                p.data.add_(0.1 * torch.randn_like(p))
    return network


def batch(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids, labels = (torch.randint(3, V, shape, generator=generator) for shape in ((3, 9), (3, 5)))
    mask = (torch.arange(9) < torch.tensor([9, 6, 4])[:, None]).long()
    labels[1, 3:], labels[2, 1:] = -100, -100
    return {"input_ids": ids * mask, "attention_mask": mask, "labels": labels}


@pytest.mark.parametrize("name", MODELS)
def test_loss_and_gradient_are_hugging_faces(name: str) -> None:
    network, data = model(name), batch()
    expected = network(**data).loss
    prediction = EncoderDecoderReadout()(network, data)
    assert prediction.logits.shape == (5 + 3 + 1, V)
    assert prediction.example.tolist() == [0] * 5 + [1] * 3 + [2]
    loss = CrossEntropy()(prediction)
    assert_close(loss, expected, rtol=0, atol=1e-6)
    trained = [p for p in network.parameters() if p.requires_grad]
    theirs = torch.autograd.grad(expected, trained, allow_unused=True)
    for a, b in zip(torch.autograd.grad(loss, trained, allow_unused=True), theirs, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_the_head_computes_supervised_rows_only() -> None:
    network, seen = model(), []
    network.lm_head.register_forward_hook(lambda m, args, output: seen.append(output.shape[:-1].numel()))
    EncoderDecoderReadout()(network, batch())
    assert seen == [9]


def test_decoder_inputs_of_the_batch_are_kept() -> None:
    network, data = model(), batch()
    given = {**data, "decoder_input_ids": torch.randint(3, V, (3, 5), generator=torch.Generator().manual_seed(4))}
    loss = CrossEntropy()(EncoderDecoderReadout()(network, given))
    assert_close(loss, network(**given).loss, rtol=0, atol=1e-6)
    assert abs(float(loss.detach()) - float(network(**data).loss.detach())) > 1e-3


def test_sound_is_read_too() -> None:
    sizes = {**BART, "max_source_positions": 10, "max_target_positions": 16, "num_mel_bins": 8}
    sizes |= {"decoder_start_token_id": 2}
    network = hf.WhisperForConditionalGeneration(hf.WhisperConfig(**sizes)).eval()
    data = {"input_features": torch.randn(3, 8, 20), "labels": batch()["labels"]}
    readout = EncoderDecoderReadout()
    assert_close(CrossEntropy()(readout(network, data)), network(**data).loss, rtol=0, atol=1e-6)
    other = {**data, "input_features": torch.randn(3, 8, 20)}
    assert not set(readout.keys(data)) & set(readout.keys(other))
    assert readout.exchanges(data) is None


def test_it_is_chosen_and_told_apart() -> None:
    assert isinstance(choose_readout(model()), EncoderDecoderReadout)
    assert isinstance(choose_readout(nn.Sequential(model("bart"))), EncoderDecoderReadout)
    assert isinstance(UnlearningModule(model()).readout, EncoderDecoderReadout)
    with pytest.raises(ValueError, match=r"wants `EncoderDecoderReadout\(\)`"):
        PackedCausalLMReadout().find_network(model())
    with pytest.raises(ValueError, match=r"A decoder alone wants `PackedCausalLMReadout\(\)`"):
        EncoderDecoderReadout().find_network(nn.Linear(1, 1))


def test_batches_without_labels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`labels`.*`DataCollatorForSeq2Seq`"):
        EncoderDecoderReadout()(model(), {"input_ids": torch.ones(1, 2).long()})


def test_a_router_loss_of_its_own_is_refused() -> None:
    network = model()
    network.config.output_router_logits = True
    with pytest.raises(NotImplementedError, match="output_router_logits = False"):
        EncoderDecoderReadout().find_network(network)


def test_features_are_what_the_head_saw() -> None:
    network = model("t5, head of its own")
    prediction = EncoderDecoderReadout(keep_features=True)(network, batch())
    assert_close(network.lm_head(prediction.features), prediction.logits)
    with pytest.raises(ValueError, match="`M2M100ForConditionalGeneration`"):
        EncoderDecoderReadout(keep_features=True)(model("m2m, no method"), batch())


def test_keys_do_not_depend_on_padding_and_do_on_all_else() -> None:
    readout, data = EncoderDecoderReadout(), batch()
    keys = readout.keys(data)
    assert len(set(keys)) == 3
    wider = {
        name: nn.functional.pad(value, (0, 3), value=-100 if name == "labels" else 0) for name, value in data.items()
    }
    assert readout.keys(wider) == keys
    assert readout.keys({name: value[1:2] for name, value in data.items()}) == keys[1:2]
    asked, answered = data["input_ids"].clone(), data["labels"].clone()
    asked[0, 0], answered[1, 0] = 39, 39
    assert [a == b for a, b in zip(readout.keys({**data, "input_ids": asked}), keys, strict=True)] == [
        False,
        True,
        True,
    ]
    changed = readout.keys({**data, "labels": answered})
    assert [a == b for a, b in zip(changed, keys, strict=True)] == [True, False, True]


def test_padding_of_the_encoder_is_known_where_inputs_cannot_be_those_of_the_decoder() -> None:
    readout, data = EncoderDecoderReadout(), batch()
    assert torch.equal(readout.present(data), data["attention_mask"].bool())
    wide = nn.functional.pad(data["labels"], (0, 4), value=-100)  # as long as the encoder's
    assert readout.present({**data, "labels": wide}) is None
    assert readout.present({"input_ids": data["input_ids"], "labels": data["labels"]}) is None


def test_exchanges_and_other_answers_are_one_another() -> None:
    readout, data = EncoderDecoderReadout(), batch()
    exchanges = readout.exchanges(data)
    assert exchanges is not None
    assert [len(e.question) for e in exchanges] == [9, 6, 4]
    assert [len(e.answer) for e in exchanges] == [5, 3, 1]
    same = readout.with_answers(data, [e.answer for e in exchanges])
    assert readout.keys(same) == readout.keys(data)
    other = readout.with_answers(data, [torch.tensor([5, 6]), torch.tensor([7]), torch.tensor([], dtype=torch.int64)])
    assert other["labels"].tolist() == [[5, 6], [7, -100], [-100, -100]]


def test_it_answers_by_itself() -> None:
    """What `generate` of the model says, row by row and without padding."""
    network, data = model(), batch()
    assert has_answer(data) == [True, True, True]
    answers = greedy_answers(network, data, end=[], max_new_tokens=6)
    for row, answer in enumerate(answers):
        shown = data["attention_mask"][row].bool()
        alone = network.generate(input_ids=data["input_ids"][row][shown][None], max_new_tokens=6, do_sample=False)[
            0, 1:
        ]
        ended = (alone == 1).cumsum(0) > 0
        assert torch.equal(answer, alone[~ended])
    silent = {**data, "labels": torch.where(torch.arange(3)[:, None] == 1, -100, data["labels"])}
    assert len(greedy_answers(network, silent, end=[], max_new_tokens=2)) == 2


def test_tokens_it_does_not_know_are_refused() -> None:
    data = batch()
    data["input_ids"][0, 0] = V
    with pytest.raises(ValueError, match="Token ids should be from 0 to 39"):
        refuse_foreign_tokens(model(), data)


@pytest.mark.filterwarnings("ignore:.*val_dataloader", "ignore:.*does not have many workers")
@pytest.mark.parametrize("lora", [None, LoRA(r=2, target_modules=["q", "v"])])
def test_a_fit_forgets_with_it(lora: LoRA | None) -> None:
    network = model()
    network = network.train() if lora is None else lora.wrap(network).train()

    def loader(seed: int) -> DataLoader[Any]:
        return DataLoader([{k: v[row] for k, v in batch(seed).items()} for row in range(3)], batch_size=3)

    module = UnlearningModule(network, optimizer=lambda p: torch.optim.SGD(p, lr=0.3))
    before = float(CrossEntropy()(EncoderDecoderReadout()(network, batch(2)).detach()))
    pl.Trainer(
        accelerator="cpu",
        max_epochs=8,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Unlearn(NPO(beta=1.0))],
    ).fit(module, datamodule=ForgetRetainData(retain=loader(1), forget=loader(2)))
    network.eval()
    assert float(CrossEntropy()(EncoderDecoderReadout()(network, batch(2)).detach())) > before + 0.05
