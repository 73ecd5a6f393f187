"""Adapters of our own: nothing at first, one modality by itself, tokens that mix, and no merging; LoRA that is folded."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from _adapters import wrapped
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from lightning_unlearn import LoRA, PackedCausalLMReadout, TinyCausalLM
from lightning_unlearn.attacks import Quantize
from lightning_unlearn.models import Adapted, Adapter, Experts, TokenMixing, fold_adapter_, merged
from lightning_unlearn.models.adapters import added_layers, added_switched_off
from lightning_unlearn.models.layers import in_adapter
from lightning_unlearn.readouts import CausalLMReadout, greedy_answers
from lightning_unlearn.references import AdapterDisabled

SIZES = {"hidden_size": 16, "num_hidden_layers": 2}
ADAPTERS: dict[str, Callable[[], Adapter]] = {
    "experts": lambda: Experts(r=2, forget=1, retain=2),
    "split": lambda: Experts(r=2, other_tokens=[7, 8]),
    "mixing": lambda: TokenMixing(r=4),
    "mixing all": lambda: TokenMixing(r=2, layers="*_proj"),
}
every_adapter = pytest.mark.parametrize("name", ADAPTERS)
TOKENS = torch.tensor([[5, 7, 9, 8, 11, 12], [6, 6, 7, 20, 21, 22]])
BATCH = {"input_ids": TOKENS, "labels": TOKENS}


def bare() -> Any:
    return TinyCausalLM(**SIZES)


def built(name: str, moved: bool = False) -> Any:
    network = Adapted(bare(), ADAPTERS[name]())
    if moved:
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for param_name, p in network.named_parameters():
                if "lora_B" in param_name:
                    p.copy_(torch.randn(p.shape, generator=generator) * 0.3)
    return network


def logits(network: Any, tokens: Tensor = TOKENS) -> Tensor:
    return network(input_ids=tokens, use_cache=False).logits


# What all of them keep to


@every_adapter
def test_at_first_it_says_what_the_network_says_to_the_bit(name: str) -> None:
    assert torch.equal(logits(built(name)), logits(bare()))
    assert not torch.equal(logits(built(name, moved=True)), logits(bare()))


@every_adapter
def test_switched_off_it_is_the_network_to_the_bit_and_afterwards_on_again(name: str) -> None:
    network = built(name, moved=True)
    on = logits(network)
    with added_switched_off(network):
        assert torch.equal(logits(network), logits(bare()))
    assert torch.equal(logits(network), on)
    with pytest.raises(RuntimeError), added_switched_off(network):
        raise RuntimeError
    assert torch.equal(logits(network), on)


@every_adapter
def test_the_adapter_alone_is_trained_and_known_by_its_names(name: str) -> None:
    network = built(name, moved=True)
    trained = {n for n, p in network.named_parameters() if p.requires_grad}
    assert trained == {n for n, _ in network.named_parameters() if in_adapter(n)}
    CausalLMReadout()(network, BATCH).token_nll().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for n, p in network.named_parameters() if n in trained)
    assert all(p.grad is None for n, p in network.named_parameters() if n not in trained)


@every_adapter
def test_it_is_its_own_reference(name: str) -> None:
    network, reference = built(name), AdapterDisabled()
    reference.attach(network)
    with torch.no_grad():
        for n, p in network.named_parameters():
            if in_adapter(n):
                p.add_(0.1)
    flags = [p.requires_grad for p in network.parameters()]
    seen = reference(CausalLMReadout(), BATCH)
    assert torch.equal(seen.token_nll(), CausalLMReadout()(bare(), BATCH).token_nll())
    assert [p.requires_grad for p in network.parameters()] == flags
    with pytest.raises(ValueError, match="an adapter that has been trained already"):
        AdapterDisabled().attach(network)


@every_adapter
def test_a_copy_is_a_network_of_its_own(name: str) -> None:
    network = built(name, moved=True)
    copy = deepcopy(network)
    other = torch.tensor([[30, 31, 7, 33]])
    expected = logits(network), logits(network, other)
    # One after the other: a copy that shared anything would see the other's tokens.
    assert torch.equal(logits(copy, other), expected[1])
    assert torch.equal(logits(network), expected[0])
    assert torch.equal(logits(copy), expected[0])


@every_adapter
def test_weights_go_into_a_state_and_back(name: str) -> None:
    network, other = built(name, moved=True), built(name)
    other.load_state_dict(network.state_dict())
    assert torch.equal(logits(other), logits(network))


@every_adapter
def test_the_start_depends_on_the_seed_alone(name: str) -> None:
    torch.manual_seed(1)
    one, state = built(name), torch.get_rng_state()
    torch.manual_seed(2)
    other = built(name)
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))
    torch.manual_seed(1)
    bare()
    assert torch.equal(torch.get_rng_state(), state)


@every_adapter
def test_merging_is_refused_by_name(name: str) -> None:
    network = built(name)
    kind = "ExpertLayer" if "mixing" not in name else "MixingLayer"
    with pytest.raises(
        NotImplementedError, match=f"`{kind}` should stay beside its layer: .*Found that it is to be merged"
    ):
        next(layer for _, layer in added_layers(network)).merge()
    with pytest.raises(NotImplementedError, match=kind):
        merged(network)
    with pytest.raises(NotImplementedError, match=kind):
        fold_adapter_(network)


@every_adapter
def test_rounding_meets_the_network_with_its_adapter(name: str) -> None:
    network = built(name, moved=True)
    on = logits(network)
    with Quantize(bits=3)(network) as points:
        list(points)
        assert not torch.equal(logits(network), on)
    assert torch.equal(logits(network), on)


@every_adapter
def test_readouts_see_the_same_whether_rows_are_packed_or_not(name: str) -> None:
    network = built(name, moved=True)
    labels = torch.tensor([[-100, -100, 9, 8, 11, 12], [-100, -100, -100, 20, 21, -100]])
    batch = {"input_ids": TOKENS, "labels": labels, "attention_mask": torch.ones_like(TOKENS)}
    plain, packed = CausalLMReadout()(network, batch), PackedCausalLMReadout()(network, batch)
    assert_close(packed.token_nll(), plain.token_nll(), rtol=1e-4, atol=1e-5)


@every_adapter
def test_answers_are_those_of_whole_passes(name: str) -> None:
    network = built(name, moved=True).eval()
    labels = torch.tensor([[-100, -100, -100, 8, 11, 12]])
    (answer,) = greedy_answers(network, {"input_ids": TOKENS[:1], "labels": labels}, end=[1], max_new_tokens=5)
    tokens = TOKENS[:1, :3]
    for token in answer.tolist():
        assert logits(network, tokens)[0, -1].argmax().item() == token
        tokens = torch.cat([tokens, torch.tensor([[token]])], dim=1)


def test_a_second_adapter_and_layers_that_are_not_there_are_refused() -> None:
    with pytest.raises(ValueError, match="a network without one. Found parameters of another"):
        Experts().wrap(built("mixing"))
    with pytest.raises(ValueError, match="Found none for 'w_q'. There are `model.layers.0.self_attn.q_proj`"):
        TokenMixing(layers=["q_proj", "w_q"]).wrap(bare())
    with pytest.raises(ValueError, match="a network with an input embedding. Found `Sequential`"):
        Experts(other_tokens=[1]).wrap(nn.Sequential(nn.Linear(1, 1)))
    with pytest.raises(ValueError, match="`r` should be a multiple of `heads`. Found `r = 3`, `heads = 2`"):
        TokenMixing(r=3)


# Experts


def test_experts_are_a_weighted_sum_of_low_rank_changes() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(6, 4)
    network = Experts(r=3, alpha=6.0, forget=1, retain=2).wrap(nn.Sequential(layer))
    params = dict(network[0].named_parameters())
    with torch.no_grad():
        for name, p in params.items():
            if name.startswith("lora_"):
                p.normal_()
    x = torch.randn(5, 6)
    expected = []
    for row in x:
        share = torch.exp(params["lora_router"] @ row)
        share = share / share.sum()
        total = layer(row)
        for i, (kind, place) in enumerate([("forget", 0), ("retain", 0), ("retain", 1)]):
            total = total + 2.0 * share[i] * params[f"lora_B_{kind}"][place] @ (params[f"lora_A_{kind}"][place] @ row)
        expected.append(total)
    assert_close(network(x), torch.stack(expected))


def test_one_modality_has_no_gradient_in_the_others_adapter() -> None:
    text, images = torch.tensor([[5, 6, 9, 10]]), torch.tensor([[7, 8, 7, 7]])
    for tokens, still, moving in ((text, "_other", "_forget"), (images, "_forget", "_other")):
        network = built("split", moved=True)
        logits(network, tokens).square().sum().backward()
        inside = {n: p.grad for n, p in network.named_parameters() if in_adapter(n)}
        assert all(not g.any() for n, g in inside.items() if n.endswith(still))
        assert all(g.any() for n, g in inside.items() if n.endswith(moving))
        if still == "_forget":
            assert all(not g.any() for n, g in inside.items() if "_retain" in n or "router" in n)


def test_in_a_mixed_row_each_token_has_its_own_adapter() -> None:
    network = built("split", moved=True)
    layer = network.model.layers[0].mlp.up_proj
    layer.split.read(None, (TOKENS,))
    x = torch.randn(2, 6, 16)
    other = torch.isin(TOKENS, torch.tensor([7, 8]))
    routed, own = layer.added(x).clone(), 8.0 * x @ layer.lora_A_other.T @ layer.lora_B_other.T
    assert_close(routed[other], own[other])
    assert not torch.isclose(routed[~other], own[~other]).all(1).any()


def test_rows_that_are_no_tokens_are_refused_by_name() -> None:
    network = Experts(other_tokens=[7], layers=["up_proj", "lm_head"]).wrap(bare())
    with pytest.raises(ValueError, match="A layer of `Experts` should get a row for each token. Found tokens of shape"):
        CausalLMReadout()(network, {"input_ids": TOKENS, "labels": TOKENS.masked_fill(TOKENS > 10, -100)})
    embedded = network.model.embed_tokens(TOKENS)
    with pytest.raises(ValueError, match="and call the network with tokens"):
        network(inputs_embeds=torch.cat([embedded, embedded], 1))


# TokenMixing


def test_mixing_is_causal() -> None:
    network = built("mixing all", moved=True)
    other = TOKENS.clone()
    other[:, 4:] += 30
    assert torch.equal(logits(network)[:, :4], logits(network, other)[:, :4])
    assert not torch.isclose(logits(network)[:, 4:], logits(network, other)[:, 4:]).all()


def test_mixing_is_attention_among_few_dimensions_written_token_by_token() -> None:
    torch.manual_seed(0)
    network = TokenMixing(r=4, alpha=8.0, heads=2, layers="*").wrap(nn.Sequential(nn.Linear(6, 3)))
    layer: Any = network[0]
    with torch.no_grad():
        for name, p in layer.named_parameters():
            if name.startswith("lora_"):
                p.normal_()
    x = torch.randn(1, 5, 6)
    z = x[0] @ layer.lora_A.T
    query, key, value = (z @ part.T for part in layer.lora_mix.split(4))
    rows = []
    for t in range(5):
        heads = []
        for h in (slice(0, 2), slice(2, 4)):
            weights = F.softmax(key[: t + 1, h] @ query[t, h] / 2**0.5, dim=0)
            heads.append(weights @ value[: t + 1, h])
        mixed = layer.lora_out @ torch.cat(heads)
        rows.append(layer.base_layer(x[0, t]) + 2.0 * layer.lora_B @ (z[t] + mixed))
    assert_close(network(x)[0], torch.stack(rows))
    with pytest.raises(ValueError, match=r"should get tokens in rows, \[B, T, in\]. Found shape \(5, 6\)"):
        network(x[0])


def test_padding_behind_changes_nothing() -> None:
    network = built("mixing all", moved=True)
    padded = F.pad(TOKENS, (0, 3), value=2)
    mask = F.pad(torch.ones_like(TOKENS), (0, 3))
    seen = network(input_ids=padded, attention_mask=mask, use_cache=False).logits[:, :6]
    assert_close(seen, logits(network), rtol=1e-4, atol=1e-5)


def test_a_cache_is_switched_off_where_a_network_says_so() -> None:
    assert bare().config.use_cache
    assert not built("mixing").config.use_cache
    assert built("experts").config.use_cache


# Folding


def lora(**kwargs: Any) -> Any:
    network = LoRA(r=2, **kwargs).wrap(bare())
    with torch.no_grad():
        for name, p in network.named_parameters():
            if "lora_B" in name:
                p.normal_(0, 0.3)
    return network


def test_folding_changes_nothing_that_is_said_and_begins_anew() -> None:
    network = lora()
    before, names = logits(network), [n for n, _ in network.named_parameters()]
    first = {n: p.detach().clone() for n, p in network.named_parameters() if "lora_A" in n}
    fold_adapter_(network, seed=4)
    assert_close(logits(network), before, rtol=1e-4, atol=1e-5)
    assert [n for n, _ in network.named_parameters()] == names
    assert all(not p.any() for n, p in network.named_parameters() if "lora_B" in n)
    assert all(not torch.equal(p, first[n]) for n, p in network.named_parameters() if n in first)
    with network.disable_adapter():
        assert_close(logits(network), before, rtol=1e-4, atol=1e-5)
    AdapterDisabled().attach(network)  # as fresh as one that was just put on


def test_folding_several_adapters_in_turn_adds_them_up() -> None:
    network = LoRA(r=2, target_modules=["up_proj"]).wrap(bare())
    layer = network.base_model.model.model.layers[0].mlp.up_proj
    start, total = layer.base_layer.weight.detach().clone(), torch.zeros(())
    for seed in range(3):
        with torch.no_grad():
            layer.lora_B.default.weight.normal_(0, 0.3)
            total = total + 8.0 * layer.lora_B.default.weight @ layer.lora_A.default.weight
        fold_adapter_(network, seed=seed)
    assert_close(layer.base_layer.weight, start + total, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True` and a tied layer is part of the adapter")
def test_folding_a_tied_head_leaves_the_embedding() -> None:
    network = LoRA(r=2, target_modules=["lm_head"]).wrap(bare())
    model = network.base_model.model
    with torch.no_grad():
        model.lm_head.lora_B.default.weight.normal_(0, 0.3)
    before, embedding = logits(network), model.model.embed_tokens.weight.detach().clone()
    fold_adapter_(network)
    assert torch.equal(model.model.embed_tokens.weight, embedding)
    assert_close(logits(network), before, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_folded_is_refused() -> None:
    with pytest.raises(ValueError, match="a network with a LoRA adapter. Found none"):
        fold_adapter_(bare())
    with pytest.raises(ValueError, match="should find plain LoRA on linear layers. Found another adapter on"):
        fold_adapter_(lora(use_dora=True))


@pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys did not match")
@pytest.mark.parametrize("name", ["experts", "experts alone"])
def test_factors_of_stacked_experts_are_not_folded(name: str) -> None:
    """They are on a parameter of a module, and below is no layer with a weight."""
    with pytest.raises(ValueError, match="plain LoRA on linear layers. Found another adapter on `.*mlp"):
        fold_adapter_(wrapped(name))
