"""Micro-batches add the largest gradients to those before them in place, and the step is the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from _joined_fits import rows
from _language_models import VOCABULARY, family
from _modules import quiet
from torch import Tensor
from torch.testing import assert_close
from torch.utils.data import DataLoader
from transformers import GPT2Config, GPT2LMHeadModel

from lightning_unlearn import NPO, ForgetRetainData, Unlearn, UnlearningModule
from lightning_unlearn.engine import _add
from lightning_unlearn.forgetting import CheaperPass, TwoPasses, _accumulating
from lightning_unlearn.functional import gradient_places

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*validation_step:lightning.fabric.utilities.warnings.PossibleUserWarning"
)


def untied() -> Any:
    torch.manual_seed(3)
    sizes = {"vocab_size": VOCABULARY, "n_positions": 32, "n_embd": 16, "n_layer": 1, "n_head": 2}
    drops = {"resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0}
    return GPT2LMHeadModel(GPT2Config(tie_word_embeddings=False, **sizes, **drops))


NETWORKS: dict[str, Any] = {"tied": lambda: family("gpt2"), "untied": untied}


def fit(network: Any, passes: Any, hook: Any = None, betas: tuple[float, ...] = (0.3,)) -> list[Tensor]:
    net = network().double()
    if hook is not None:
        net.lm_head.weight.register_hook(hook)
    module = UnlearningModule(net, optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    retain, forget = (DataLoader(rows(seed, 9), batch_size=2) for seed in (1, 2))
    quiet(
        max_steps=2,
        accumulate_grad_batches=3,
        callbacks=[Unlearn(NPO(beta), passes=passes) for beta in betas],
        limit_val_batches=0,
        precision="64-true",
        log_every_n_steps=0,
    ).fit(module, datamodule=ForgetRetainData(retain=retain, forget=forget))
    assert not gradient_places._open
    return [p.detach() for p in net.parameters()]


@pytest.mark.parametrize("passes", [TwoPasses(), CheaperPass(1e9)], ids=["two passes", "one pass"])
@pytest.mark.parametrize("network", NETWORKS)
def test_the_step_is_that_of_autograds_sum(network: str, passes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    added = []
    own = gradient_places.Place.add_product_
    monkeypatch.setattr(gradient_places.Place, "add_product_", lambda *a: (added.append(1), own(*a))[1])
    found = fit(NETWORKS[network], passes)
    # In each step, of the second micro-batch and of the third; and one forget micro-batch that waited for the first reading.
    assert len(added) == (5 if isinstance(passes, CheaperPass) else 4)
    added.clear()
    for module in (_accumulating, _add):
        monkeypatch.setattr(module, "takes_in_place", lambda *_: False)
    for one, other in zip(found, fit(NETWORKS[network], passes), strict=True):
        assert_close(one, other, rtol=0, atol=1e-12)
    assert not added


def test_it_is_with_several_unlearns_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each says where gradients are, and they leave in the order in which they came; `fit` sees to it that all do."""
    found = fit(untied, TwoPasses(), betas=(0.3, 0.5))
    for module in (_accumulating, _add):
        monkeypatch.setattr(module, "takes_in_place", lambda *_: False)
    for one, other in zip(found, fit(untied, TwoPasses(), betas=(0.3, 0.5)), strict=True):
        assert_close(one, other, rtol=0, atol=1e-12)


def test_a_hook_of_the_users_sees_each_gradient() -> None:
    seen = []
    fit(untied, TwoPasses(), hook=lambda grad: seen.append(float(grad.norm())))
    assert len([norm for norm in seen if norm > 0]) == 2 * 3 * 2  # of two steps, three micro-batches, both kinds


@pytest.mark.parametrize("betas", [(0.3,), (0.3, 0.5)], ids=["one", "two"])
def test_an_error_in_a_backward_pass_closes_the_places(betas: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(gradient_places.Place, "add_product_", fails)
    with pytest.raises(ZeroDivisionError):
        fit(untied, TwoPasses(), betas=betas)
    assert not gradient_places._open
