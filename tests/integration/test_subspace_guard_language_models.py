"""Padding, adapters, transposed and tied weights: what language models bring to `SubspaceGuard`."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from _language_models import WIDTH, adapted, batch, family
from _modules import quiet
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import BertConfig, BertForSequenceClassification

from lightning_unlearn import CausalLMReadout, PackedCausalLMReadout, SubspaceGuard, UnlearningModule
from lightning_unlearn.guards import InputSubspace, NullSpace
from lightning_unlearn.guards.subspaces._protected_inputs import ProtectedInputs
from lightning_unlearn.runtime import eval_without_grad

pytestmark = [
    pytest.mark.filterwarnings("ignore:You defined a `validation_step`"),
    pytest.mark.filterwarnings("ignore:All trained parameters should be protected"),
]
KEPT = (1, 2)  # of four and six tokens, in rows of nine
TOKENS = 10
DISTINCT = len(set(batch(rows=KEPT)["input_ids"][batch(rows=KEPT)["attention_mask"].bool()].tolist()))


def language(*rows: int, times: int = 1, **kwargs: Any) -> DataLoader[Any]:
    there = batch(rows=rows, **kwargs)
    return DataLoader([{k: v[i] for k, v in there.items()} for i in range(len(rows))] * times, batch_size=len(rows))


def fit(network: nn.Module, subspace: Any = None, lr: float = 1e-2, **kwargs: Any) -> SubspaceGuard | None:
    """Fine-tune on the row that is not kept."""
    module = UnlearningModule(network, optimizer=lambda p: torch.optim.AdamW(p, lr=lr, weight_decay=0.1))
    settings = {"retain": language(*KEPT), "batches": 1, **kwargs}
    guard = None if subspace is None else SubspaceGuard(subspace, **settings)
    quiet(callbacks=[] if guard is None else [guard], max_steps=10, max_epochs=-1).fit(module, language(0, times=10))
    return guard


def says(network: nn.Module) -> Tensor:
    """Logits at all positions of what is kept that are not padding."""
    kept = batch(rows=KEPT)
    mask = kept["attention_mask"]
    with eval_without_grad(network):
        return network(input_ids=kept["input_ids"], attention_mask=mask).logits[mask.bool()]


def protects(guard: Any) -> dict[str, int]:
    return {layer.name: projection.protects for layer, projection in guard._inputs._projections.items()}


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("readout", [None, CausalLMReadout(), PackedCausalLMReadout()])
def test_padding_is_not_protected(readout: Any, side: str) -> None:
    """As many directions as tokens; with padding among them there would be more."""
    network = family("llama")
    guard = fit(network, NullSpace(0), readout=readout, retain=language(*KEPT, side=side), layers=["q_proj", "lm_head"])
    found = protects(guard)
    first, second = (f"network.model.layers.{i}.self_attn.q_proj" for i in range(2))
    assert found == {first: DISTINCT, second: TOKENS, "network.lm_head": TOKENS}


def test_padding_would_be() -> None:
    with pytest.warns(UserWarning, match="Found none in `network.model.layers.1.self_attn.q_proj`"):
        guard = fit(family("llama"), NullSpace(0), readout=PaddingToo(), layers=["q_proj"])
    assert max(protects(guard).values()) == WIDTH > TOKENS


def test_padding_of_a_text_classifier_is_not_protected_and_a_pooled_row_is_none() -> None:
    sizes = {"hidden_size": WIDTH, "num_attention_heads": 2, "intermediate_size": 32, "num_hidden_layers": 1}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = BertForSequenceClassification(BertConfig(vocab_size=512, **sizes))

    def texts(*rows: int, times: int = 1) -> DataLoader[Any]:
        there = {**batch(rows=rows), "labels": torch.zeros(len(rows)).long()}
        return DataLoader([{k: v[i] for k, v in there.items()} for i in range(len(rows))] * times, batch_size=len(rows))

    guard = SubspaceGuard(NullSpace(0), retain=texts(*KEPT), batches=1, layers=["intermediate", "pooler"])
    quiet(callbacks=[guard], max_steps=1).fit(UnlearningModule(network), texts(0))
    assert list(protects(guard).values()) == [TOKENS, len(KEPT)]


class PaddingToo(CausalLMReadout):
    def present(self, batch: Any) -> Tensor | None:
        return None


def test_without_a_mask_what_follows_the_last_label_is_padding() -> None:
    guard = fit(family("llama"), NullSpace(0), retain=language(1, masked=False), layers=["q_proj"])
    assert set(protects(guard).values()) == {4}


@pytest.mark.parametrize("subspace", [NullSpace(0), InputSubspace(1.0)], ids=repr)
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_an_adapter_vanishes_on_protected_inputs(dropout: float, subspace: Any) -> None:
    """Dropout in front of it is not in the way: inputs are those before."""
    guarded, bare = (adapted(family("llama"), lora_dropout=dropout) for _ in range(2))
    start = says(guarded)
    moved = {n: p.detach().clone() for n, p in guarded.named_parameters() if p.requires_grad}
    fit(guarded, subspace)
    fit(bare)
    assert float((says(guarded) - start).abs().max()) < 1e-5
    assert float((says(bare) - start).abs().max()) > 0.1
    now = dict(guarded.named_parameters())
    assert all(float((now[n].detach() - p).abs().max()) > 1e-2 for n, p in moved.items())


def test_an_adapter_projected_in_its_steps_alone_would_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    network = adapted(family("llama"))
    start = says(network)
    monkeypatch.setattr(ProtectedInputs, "start_adapters_", lambda self: None)
    fit(network, NullSpace(0))
    assert float((says(network) - start).abs().max()) > 0.1


def test_only_a_fresh_adapter_is_taken() -> None:
    with pytest.raises(ValueError, match="should get a fresh adapter.*`network.*q_proj.lora_A.default`, which does"):
        fit(family("llama", lora=True), NullSpace(0))
    network = adapted(family("llama"))
    fit(network, NullSpace(0))
    start = says(network)
    fit(network, NullSpace(0))  # one that this guard has kept away from what is protected
    assert float((says(network) - start).abs().max()) < 1e-5


def test_an_adapter_that_also_scales_is_named() -> None:
    with pytest.raises(ValueError, match="There should be a layer to protect"):
        fit(adapted(family("llama"), use_dora=True), NullSpace(0))


@pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed")
def test_a_bias_of_the_second_factor_is_named() -> None:
    with pytest.warns(UserWarning, match=r"All trained parameters.*q_proj.lora_B.default.bias"):
        fit(adapted(family("llama"), lora_bias=True), NullSpace(0))


def test_transposed_weights_are_protected_with_their_biases() -> None:
    """The `Conv1D` of transformers; with everything else frozen, what the model says of what is kept stays."""
    guarded, bare = family("gpt2"), family("gpt2")
    for network in (guarded, bare):
        for name, p in network.named_parameters():
            p.requires_grad_("c_fc" in name or "c_attn" in name)
    start = says(guarded)
    guard = fit(guarded, NullSpace(0))
    fit(bare)
    assert {name: n for name, n in protects(guard).items() if "c_fc" in name} == {
        f"network.transformer.h.{i}.mlp.c_fc": TOKENS for i in range(2)
    }
    assert float((says(guarded) - start).abs().max()) < 1e-5
    assert float((says(bare) - start).abs().max()) > 0.1


def test_a_head_tied_to_an_embedding_is_named_not_protected() -> None:
    with pytest.warns(UserWarning, match=r"All trained parameters.*`network.transformer.wte.weight`"):
        guard = fit(family("gpt2"), NullSpace(1e-2))
    assert not [name for name in protects(guard) if "lm_head" in name]


def test_whole_training_of_a_model_keeps_each_layer_by_itself() -> None:
    network = family("llama")
    start = copy.deepcopy(network)
    fit(network, NullSpace(0), layers=["*_proj"])
    inputs: dict[str, Tensor] = {}
    for name, layer in start.named_modules():
        if name.endswith("_proj"):
            layer.register_forward_pre_hook(lambda _, args, name=name: inputs.update({name: args[0]}))
    says(start)
    mask = batch(rows=KEPT)["attention_mask"].bool()
    assert len(inputs) == 14
    for name, x in inputs.items():
        change = (network.get_submodule(name).weight - start.get_submodule(name).weight).detach().double()
        assert float(change.abs().max()) > 1e-3
        assert float((x[mask].double() @ change.T).abs().max()) < 1e-6
        assert x.shape[-1] == WIDTH


def test_inputs_that_are_no_positions_are_recorded_with_a_warning() -> None:
    class Pooling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.inner(x[:, :2])[:, :1]  # the first position: no later one is seen

    network = family("llama")
    network.model.layers[0].mlp = Pooling()
    with pytest.warns(
        UserWarning, match=r"Found other shapes, and recorded padding too, in `network.model.layers.0.mlp.inner`"
    ):
        fit(network, NullSpace(0), layers=["q_proj", "inner"])
