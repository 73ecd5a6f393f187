"""Reading at supervised positions only says what the full logits say, whatever the model, adapter, padding and compiler."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from _language_models import FAMILIES, LENGTHS, PROMPTS, VOCABULARY, WIDTH, adapted, batch, family
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from lightning_unlearn import CausalLMReadout, CrossEntropy
from lightning_unlearn.readouts import is_language_model

BERT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
}
SUPERVISED = sum(LENGTHS) - sum(PROMPTS)
VARIANTS = {"bare": {}, "lora": {"lora": True}, "lora_on_head": {"lora": True, "head": True}}
TIED = ("gpt2", "gemma2", "opt")
CASES = [(name, variant) for name in FAMILIES for variant in VARIANTS if variant != "lora_on_head" or name not in TIED]
COMPILERS = {
    "wrapped": lambda network: torch.compile(network, backend="eager"),
    "in_place": lambda network: network.compile(backend="eager") or network,
    "aot": lambda network: torch.compile(network, backend="aot_eager"),
    "decoder": lambda network: network.model.compile(backend="eager") or network,
}


def by_hand(network: nn.Module, data: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels from plain calls, one row after the other, each without its padding."""
    logits, labels = [], []
    shown = data.get("attention_mask", torch.ones_like(data["labels"])).bool()
    for tokens, wanted, mask in zip(data["input_ids"], data["labels"], shown, strict=True):
        places = [t for t, y in enumerate(wanted[mask].tolist()) if y != -100]
        logits.append(network(input_ids=tokens[mask][None]).logits[0, [t - 1 for t in places]])
        labels.append(wanted[mask][places])
    return torch.cat(logits), torch.cat(labels)


def gradients(loss: torch.Tensor, network: nn.Module) -> dict[str, torch.Tensor]:
    named = {name.replace("_orig_mod.", ""): p for name, p in network.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {name: torch.zeros_like(p) if g is None else g for (name, p), g in zip(named.items(), found, strict=True)}


def assert_says_the_same(network: nn.Module, data: dict[str, Any], readout: CausalLMReadout | None = None) -> None:
    """In float64: sums in another order differ far less than is asked, also where a family rounds a part to float32."""
    network.double()
    prediction = (readout or CausalLMReadout())(network, data)
    logits, labels = by_hand(network, data)
    assert_close(prediction.logits, logits, rtol=1e-7, atol=1e-7)
    assert torch.equal(prediction.labels, labels)
    expected = F.cross_entropy(logits, labels)
    loss = CrossEntropy()(prediction)
    assert_close(loss, expected, rtol=0, atol=1e-7)
    ours, theirs = gradients(loss, network), gradients(expected, network)
    assert sum(g.abs().sum().item() for g in theirs.values()) > 0.1
    for name, gradient in theirs.items():
        assert_close(ours[name], gradient, rtol=0, atol=1e-7, msg=lambda m, name=name: f"{name}: {m}")


def count_hooks(network: nn.Module) -> int:
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in network.modules())


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("name", "variant"), CASES)
def test_packed_equals_padded_in_loss_and_gradient(name: str, variant: str, side: str) -> None:
    assert_says_the_same(family(name, **VARIANTS[variant]), batch(side))


def test_rows_say_which_example_they_belong_to() -> None:
    prediction = CausalLMReadout()(family("llama"), batch())
    assert prediction.example.tolist() == [0] * 6 + [1] * 2
    assert prediction.batch_size == 3
    assert prediction.logits.shape == (SUPERVISED, VOCABULARY)
    assert prediction.features is None


def test_soft_cap_behind_the_head_still_happens() -> None:
    prediction = CausalLMReadout()(family("gemma2"), batch())
    assert 0.25 < prediction.logits.abs().max() <= 0.3


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_head_computes_supervised_rows_only(variant: str) -> None:
    network, rows = family("llama", **VARIANTS[variant]), []
    head = network.get_output_embeddings()
    head.register_forward_hook(lambda module, args, output: rows.append(output.shape[:-1].numel()))
    CausalLMReadout()(network, batch())
    assert rows == [SUPERVISED]


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_without_a_head_to_be_found_the_full_logits_are_gathered(name: str) -> None:
    network, rows = family(name), []
    network.lm_head.register_forward_hook(lambda module, args, output: rows.append(output.shape[:-1].numel()))
    network.get_output_embeddings = lambda: None
    assert is_language_model(network)
    CausalLMReadout()(network, batch())
    assert rows == [batch()["labels"].numel()]
    assert_says_the_same(network, batch())


def test_a_head_that_is_called_by_its_weight_alone_is_read_from_the_full_logits() -> None:
    network = family("llama")
    weight, network.lm_head.forward = network.lm_head.weight, None
    network.lm_head.__class__ = type("Uncalled", (nn.Linear,), {"__call__": lambda self, x: F.linear(x, weight)})
    assert_says_the_same(network, batch())


def test_positions_put_before_the_batch_are_not_read() -> None:
    """As prompt tuning does."""
    from peft import PromptTuningConfig, get_peft_model

    network = get_peft_model(family("llama"), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
    data = batch()
    full = network(input_ids=data["input_ids"], attention_mask=data["attention_mask"]).logits
    assert full.shape[1] == data["labels"].shape[1] + 4
    expected = torch.cat([full[0, 4 + 2 : 4 + 8], full[1, 4 + 1 : 4 + 3]])
    assert_close(CausalLMReadout()(network, data).logits, expected, rtol=0, atol=1e-6)


def test_nothing_supervised_gives_no_rows_and_a_loss_that_can_run_backward() -> None:
    network, data = family("llama"), batch(rows=(2,))
    prediction = CausalLMReadout()(network, data)
    assert prediction.logits.shape == (0, VOCABULARY)
    assert prediction.supervised().tolist() == [False]
    loss = CrossEntropy()(prediction)
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in network.parameters())


def test_padding_never_predicts_a_token() -> None:
    """Padded on the left and supervised from the first token on, that token has nothing before it to predict it."""
    network, left, right = family("opt"), batch("left"), batch("right")
    for data in (left, right):
        data["labels"] = torch.where(data["attention_mask"].bool(), data["input_ids"], -100)
    prediction, expected = CausalLMReadout()(network, left), CausalLMReadout()(network, right)
    assert torch.equal(prediction.labels, expected.labels)
    assert_close(prediction.logits, expected.logits, rtol=0, atol=1e-6)  # OPT counts positions from the first token


@pytest.mark.slow
@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("ran_before", [False, True])
def test_compiled_network_says_the_same_and_stays_what_it_was(compiler: str, ran_before: bool) -> None:
    torch._dynamo.reset()
    plain, data = family("llama"), batch()
    plain.model.layers = plain.model.layers[:1]
    network = COMPILERS[compiler](plain)
    inputs = {"input_ids": data["input_ids"], "attention_mask": data["attention_mask"]}
    if ran_before:
        network(**inputs)
    assert_says_the_same(network, data)
    assert network(**inputs).logits.shape == (3, 9, VOCABULARY)  # our hook is not compiled into it


def test_compiled_decoder_runs_compiled_and_compiled_network_eagerly() -> None:
    torch._dynamo.reset()
    compiled = []

    def backend(graph: Any, inputs: Any) -> Any:
        compiled.append(graph)
        return graph.forward

    decoder, whole = family("llama"), family("llama")
    decoder.model.compile(backend=backend)
    whole.compile(backend=backend)
    CausalLMReadout()(whole, batch())
    assert not compiled
    CausalLMReadout()(decoder, batch())
    assert compiled


def test_compiled_network_is_found_as_a_language_model() -> None:
    network = torch.compile(family("llama"), backend="eager")
    assert is_language_model(network)
    assert CausalLMReadout().find_network(nn.ModuleDict({"inner": network})) is network


def test_no_hook_remains_even_after_an_exception() -> None:
    network = family("llama", lora=True)
    before = count_hooks(network)
    CausalLMReadout()(network, batch())
    assert count_hooks(network) == before
    data = {**batch(), "input_ids": torch.full((3, 9), VOCABULARY + 5)}
    with pytest.raises(IndexError, match="index out of range"):
        CausalLMReadout()(network, data)
    assert count_hooks(network) == before


def test_features_are_the_hidden_states_before_the_head() -> None:
    network = family("qwen2")
    prediction = CausalLMReadout(keep_features=True)(network, batch())
    assert prediction.features.shape == (SUPERVISED, WIDTH)
    assert_close(network.lm_head(prediction.features), prediction.logits, rtol=0, atol=1e-6)
    network.get_output_embeddings = lambda: None
    with pytest.raises(ValueError, match=r"`keep_features=True` should find an output head .* `Qwen2ForCausalLM`"):
        CausalLMReadout(keep_features=True)(network, batch())


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt"])
@pytest.mark.parametrize("variant", ["bare", "lora"])
def test_what_the_model_does_not_take_stays_out_of_it(name: str, variant: str) -> None:
    network, data = family(name, **VARIANTS[variant]), batch()
    seen: list[str] = []
    inner = network.get_base_model() if variant == "lora" else network
    inner.register_forward_pre_hook(lambda module, args, kwargs: seen.extend(kwargs), with_kwargs=True)
    extended = {**data, "entity": ["a", "b", "c"], "index": torch.arange(3), "use_cache": True}
    positions = torch.arange(9).expand(3, 9)
    prediction = CausalLMReadout()(network, {**extended, "position_ids": positions})
    assert torch.equal(prediction.logits, CausalLMReadout()(network, {**data, "position_ids": positions}).logits)
    assert {"entity", "index"}.isdisjoint(seen)
    assert "position_ids" in seen


@pytest.mark.parametrize(
    ("network", "kind"),
    [
        (
            lambda: T5ForConditionalGeneration(
                T5Config(vocab_size=23, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
            ),
            "an encoder-decoder",
        ),
        (lambda: BertForMaskedLM(BertConfig(**BERT)), "a masked language model"),
    ],
)
def test_models_that_do_not_predict_the_next_token_are_refused(network: Any, kind: str) -> None:
    built = network()
    with pytest.raises(ValueError, match=rf"`CausalLMReadout` should get .* Found `{type(built).__name__}`, {kind}"):
        CausalLMReadout().find_network(nn.ModuleList([built]))
    with pytest.raises(ValueError, match=kind):
        CausalLMReadout()(built, batch())


def test_a_classifier_with_an_adapter_is_no_language_model() -> None:
    from peft import LoraConfig, get_peft_model

    bert = BertForSequenceClassification(BertConfig(**BERT))
    assert not is_language_model(get_peft_model(bert, LoraConfig(target_modules=["query"])))
    assert is_language_model(adapted(family("llama")))
    assert not is_language_model(nn.Linear(1, 1))


def test_the_outermost_model_is_found_in_a_module() -> None:
    network = family("llama", lora=True)
    assert CausalLMReadout().find_network(nn.ModuleDict({"a": nn.Linear(1, 1), "b": network})) is network
    with pytest.raises(ValueError, match=r"should find a Hugging Face model .* Found none in `Linear`\. Use"):
        CausalLMReadout().find_network(nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("data", "found"),
    [
        ({"input_ids": torch.ones(1, 2)}, r"a mapping with keys \['input_ids'\]"),
        ((torch.ones(1, 2), torch.ones(1)), "a tuple"),
    ],
)
def test_a_batch_without_labels_gets_one_clear_error(data: Any, found: str) -> None:
    with pytest.raises(ValueError, match=rf"a mapping with `input_ids` and `labels`\. Found {found}"):
        CausalLMReadout()(family("llama"), data)


def test_shifted_labels_get_one_clear_error() -> None:
    data = batch()
    with pytest.raises(ValueError, match=r"labels are not shifted\. Found \(3, 9\) and \(3, 8\)"):
        CausalLMReadout()(family("llama"), {**data, "labels": data["labels"][:, 1:]})


@pytest.mark.parametrize("masked", [True, False])
def test_keys_do_not_depend_on_padding_or_place(masked: bool) -> None:
    readout, whole = CausalLMReadout(), batch(masked=masked)
    assert readout.keys(batch(width=14, rows=(1, 0), masked=masked)) == readout.keys(whole)[1::-1]
    if masked:
        assert readout.keys(batch("left", width=12)) == readout.keys(whole)


@pytest.mark.parametrize("masked", [True, False])
def test_keys_tell_contents_apart(masked: bool) -> None:
    readout, data = CausalLMReadout(), batch(masked=masked)
    other_labels, other_tokens = batch(masked=masked), batch(masked=masked)
    other_labels["labels"][0, 3] = -100
    other_tokens["input_ids"][:, 0] += 1
    keys = readout.keys(data) + readout.keys(other_labels)[:1] + readout.keys(other_tokens)
    assert len(set(keys)) == 7
