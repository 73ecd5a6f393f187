"""Adapters that users put on tied heads and embeddings themselves: the fit knows the original, and resumes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from _adapters import BASES
from _language_models import batch, language
from _modules import quiet
from lightning.pytorch.callbacks import ModelCheckpoint
from peft import LoraConfig, get_peft_model

from lightning_unlearn import (
    NPO,
    AdapterDisabled,
    CausalLMReadout,
    ForgetRetainData,
    FrozenCopy,
    KLToReference,
    Unlearn,
    UnlearningModule,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True` and a tied layer"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step`"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
]
HEAD: dict[str, Any] = {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "a copy of the head": ("tied", HEAD),
    "a copy of the embeddings": ("tied", {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}),
    "both together": ("tied", {**HEAD, "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}),
    "factors of both": ("tied", {"target_modules": ["embed_tokens", "lm_head"]}),
    "tied by hand": ("by hand", HEAD),
    "GPT-2": ("gpt2", {"target_modules": ["c_attn"], "modules_to_save": ["lm_head"], "fan_in_fan_out": True}),
}


def network(case: str) -> Any:
    base, options = CASES[case]
    torch.manual_seed(0)
    return get_peft_model(BASES[base](), LoraConfig(task_type="CAUSAL_LM", r=2, **options)).train()


def said(net: Any) -> torch.Tensor:
    with torch.no_grad():
        return CausalLMReadout()(net.eval(), batch(rows=(1,))).logits


def fit(case: str, *, epochs: int = 2, ckpt: str | None = None) -> tuple[Any, Unlearn]:
    unlearn = Unlearn(KLToReference() if "factors" in case else NPO())
    module = UnlearningModule(network(case), optimizer=lambda p: torch.optim.AdamW(p, lr=1e-2))
    saving = ModelCheckpoint("ckpt", every_n_epochs=1, save_top_k=-1, filename="{epoch}")
    trainer = quiet(callbacks=[unlearn, saving], enable_checkpointing=True, max_epochs=epochs)
    trainer.fit(module, datamodule=ForgetRetainData(retain=language(0), forget=language(1)), ckpt_path=ckpt)
    return module.network, unlearn


@pytest.mark.parametrize(
    "case",
    [c if c in ("a copy of the head", "factors of both") else pytest.param(c, marks=pytest.mark.slow) for c in CASES],
)
def test_the_original_is_known_and_the_fit_resumes(case: str) -> None:
    fit(case, epochs=1)
    whole, unlearn = fit(case)
    resumed, _ = fit(case, ckpt="ckpt/epoch=0.ckpt")
    assert all(torch.equal(p, q) for p, q in zip(whole.parameters(), resumed.parameters(), strict=True))
    reference = unlearn._original.loss.reference
    assert isinstance(reference, AdapterDisabled)
    assert torch.equal(reference(CausalLMReadout(), batch(rows=(1,))).logits, said(network(case)))
    assert (said(whole) - said(network(case))).abs().max() > 1e-2


def test_a_head_that_is_trained_in_the_base_has_its_original_copied() -> None:
    net = network("a copy of the head")
    for name, p in net.named_parameters():
        p.requires_grad_("norm" in name or p.requires_grad)
    unlearn, expected = Unlearn(KLToReference()), said(net)
    module = UnlearningModule(net.train(), optimizer=lambda p: torch.optim.AdamW(p, lr=1e-2))
    data = ForgetRetainData(retain=language(0), forget=language(1))
    quiet(callbacks=[unlearn], max_epochs=1).fit(module, datamodule=data)
    reference = unlearn._original.loss.reference
    assert isinstance(reference, FrozenCopy)
    assert torch.equal(reference(CausalLMReadout(), batch(rows=(1,))).logits, expected)
