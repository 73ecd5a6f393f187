"""Every setting of an adapter: it trains, starts as the original or is known not to, and names what is there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from _adapters import ALL, BASES, IDENTITIES, OTHERS, wrapped
from _language_models import batch, family
from torch.testing import assert_close

from lightning_unlearn import NPO, AdapterDisabled, CausalLMReadout, FrozenCopy, KLToReference, LoRA
from lightning_unlearn.models import moved_from_start, start_again_
from lightning_unlearn.references import choose_reference, why_adapter_is_not_enough

pytestmark = [
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True` and a tied layer"),
    pytest.mark.filterwarnings(
        "ignore:The following (rank|alpha)_pattern keys did not match"
    ),  # of experts, PEFT's own
    pytest.mark.filterwarnings("ignore:Careful, disabling adapter layers with bias"),
]


def said(network: Any) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = network(**batch()).logits
    return logits


def base_of(name: str) -> Any:
    torch.manual_seed(0)
    return BASES[ALL[name][0]]().eval()


@pytest.mark.parametrize("name", IDENTITIES)
def test_it_starts_as_the_original_and_switched_off_it_stays_that(name: str) -> None:
    network, original = wrapped(name), said(base_of(name))
    assert torch.equal(said(network), original)
    assert why_adapter_is_not_enough(network) is None
    reference = AdapterDisabled()
    reference.attach(network)
    expected = reference(CausalLMReadout(), batch()).logits
    moved = wrapped(name, trained=True)
    assert (said(moved) - original).abs().max() > 0.05
    reference.attach(network)
    reference.network = moved
    assert torch.equal(reference(CausalLMReadout(), batch()).logits, expected)
    assert "trained already" in str(why_adapter_is_not_enough(moved))


@pytest.mark.parametrize("name", OTHERS)
def test_where_it_does_not_the_original_is_kept_in_another_way(name: str) -> None:
    network = wrapped(name)
    with pytest.raises(ValueError, match="`AdapterDisabled` should get a network that trains a fresh adapter only"):
        AdapterDisabled().attach(network)
    reference = choose_reference(KLToReference(), network)
    assert isinstance(reference, FrozenCopy)
    reference.attach(network)
    expected = said(network)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.3) if p.requires_grad else None
    assert not torch.equal(said(network), expected)
    likelihood = reference(CausalLMReadout(), batch())
    assert torch.equal(likelihood.logits, CausalLMReadout()(wrapped(name), batch()).logits)


@pytest.mark.parametrize("name", ["pissa", "fast pissa", "olora", "orthogonal"])
def test_an_adapter_of_a_part_of_the_weights_starts_as_the_original_with_them(name: str) -> None:
    assert_close(said(wrapped(name)), said(base_of(name)), rtol=0, atol=1e-5)
    assert choose_reference(NPO(), wrapped(name)) is not None


@pytest.mark.parametrize("name", ALL)
def test_all_that_is_trainable_gets_a_gradient(name: str) -> None:
    network = wrapped(name, trained=True).train()
    network(**batch()).loss.backward()
    trained = {n for n, p in network.named_parameters() if p.requires_grad}
    # Of embeddings, tokens that the batch does not have are left alone.
    assert trained
    assert {n for n, p in network.named_parameters() if p.grad is not None and p.grad.any()} == trained


def test_ranks_and_exclusions_are_as_asked() -> None:
    ranks = {n: p.shape[0] for n, p in wrapped("ranks").named_parameters() if "lora_A" in n}
    assert {r for n, r in ranks.items() if "q_proj" in n} == {1}
    assert {r for n, r in ranks.items() if "q_proj" not in n} == {2}
    assert not any("q_proj.lora" in n for n, _ in wrapped("without q_proj").named_parameters())
    assert not any("layers.0" in n for n, p in wrapped("without a pattern").named_parameters() if p.requires_grad)


@pytest.mark.parametrize("name", ["dora", "head and norm", "dora of Conv1D and embeddings", "tied head"])
def test_over_a_base_that_was_taught_it_starts_again(name: str) -> None:
    network = wrapped(name)
    with torch.no_grad():
        for n, p in network.named_parameters():
            p.add_(0.2) if not p.requires_grad and n else None
    assert any(moved_from_start(network))
    start_again_(network)
    assert not any(moved_from_start(network))
    with network.disable_adapter():
        taught = said(network)
    assert_close(said(network), taught, rtol=1e-5, atol=1e-5)


def test_magnitudes_that_moved_alone_are_noticed() -> None:
    network = wrapped("dora")
    with torch.no_grad():
        next(p for n, p in network.named_parameters() if "magnitude" in n).mul_(1.1)
    assert "magnitude" in str(why_adapter_is_not_enough(network))


def test_its_own_lists_stay_as_they_are() -> None:
    """PEFT adds a tied head to them."""
    lora = LoRA(modules_to_save=["embed_tokens"], ensure_weight_tying=True)
    lora.wrap(BASES["tied"]())
    assert lora.modules_to_save == ["embed_tokens"]


@pytest.mark.parametrize(
    ("options", "said_to_be"),
    [
        ({"modules_to_save": ["lmhead"]}, "`modules_to_save` should name layers.* Found 'lmhead'.* Close: `lm_head`"),
        ({"modules_to_save": ["head"]}, "Found 'head', which none .* Close: `lm_head`"),
        ({"exclude_modules": ["qproj"]}, "`exclude_modules` should .* Found 'qproj', .* Close: `q_proj`"),
        ({"exclude_modules": "nope.*"}, "`exclude_modules` should .* Found 'nope"),
        ({"rank_pattern": {"qproj": 2}}, "`rank_pattern` should .* Found 'qproj', .* Close: `q_proj`"),
        ({"alpha_pattern": {"vproj": 2.0}}, "`alpha_pattern` should .* Found 'vproj', .* Close: `v_proj`"),
        (
            {"target_parameters": ["experts.gate_up"]},
            r"`target_parameters` should name parameters .* Close: `experts\.gate_up_proj`",
        ),
    ],
)
def test_names_that_fit_nothing_are_refused_with_close_ones(options: dict[str, Any], said_to_be: str) -> None:
    with pytest.raises(ValueError, match=said_to_be) as refused:
        LoRA(**options).wrap(BASES["experts"]())
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    ("options", "said_to_be"),
    [
        ({"modules_to_save": "lm_head"}, "`modules_to_save` should be a list of names. Found `'lm_head'`"),
        ({"modules_to_save": []}, "`modules_to_save` should be a list of names"),
        ({"target_parameters": "x"}, "`target_parameters` should be a list of names"),
        ({"exclude_modules": "["}, "`exclude_modules` should be a regular expression"),
        ({"target_modules": []}, "`target_modules` should be"),
        ({"bias": "some"}, '`bias` should be "none", "all" or "lora_only"'),
        ({"init_lora_weights": "eva"}, "`init_lora_weights` should be .*Found `'eva'`.*by hand"),
        ({"rank_pattern": {"q_proj": 0}}, r"`rank_pattern\['q_proj'\]` should be at least 1"),
        ({"alpha_pattern": {"q_proj": -1.0}}, r"`alpha_pattern\['q_proj'\]` should be positive"),
        ({"target_parameters": ["x"], "use_dora": True}, "`target_parameters` should come without .*use_dora = True"),
        ({"target_parameters": ["x"], "dropout": 0.1}, r"`target_parameters` should come without .*dropout = 0\.1"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_a_network_is_loaded(options: Any, said_to_be: str) -> None:
    with pytest.raises(ValueError, match=said_to_be):
        LoRA(**options)


def test_a_start_that_takes_weights_out_of_few_bits_is_refused() -> None:
    network = family("llama")
    network.model.layers[0].mlp.up_proj.weight = torch.nn.Parameter(torch.ones(16, 16).to(torch.int8), False)
    with pytest.raises(ValueError, match="should add nothing to weights in few bits. Found 'pissa'"):
        LoRA(init_lora_weights="pissa").wrap(network)
