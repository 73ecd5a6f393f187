"""Forget rows in the retain rows' pass: the step is that of two passes to float64 rounding, or there are two passes."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from _joined_fits import Passes, rows
from _language_models import VOCABULARY, family
from _modules import quiet
from _ranks import run_ranks
from _sharded_fits import LANGUAGE_MODELS, whole
from torch import nn
from torch.testing import assert_close
from torch.utils.data import DataLoader, DistributedSampler
from transformers import GPT2Config, GPT2LMHeadModel

from lightning_unlearn import (
    NPO,
    CrossEntropy,
    ForgetRetainData,
    GradientAscent,
    HalfSpace,
    KLToReference,
    PackedCausalLMReadout,
    Quantize,
    RowMask,
    SequentialOrder,
    SimNPO,
    Unlearn,
    UnlearningModule,
)
from lightning_unlearn.callbacks import StepGuard
from lightning_unlearn.forgetting import CheaperPass, TwoPasses
from lightning_unlearn.models._checkpointing import checkpoint_activations
from lightning_unlearn.objectives import RandomLabel
from lightning_unlearn.readouts import CausalLMReadout

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*validation_step:lightning.fabric.utilities.warnings.PossibleUserWarning"
)

STEPS = 6
ONE = CheaperPass(share=1e9)  # the models are tiny: their activations are larger than their gradients


def fit(
    passes: Any,
    network: Callable[[], nn.Module] = lambda: family("gpt2"),
    objective: Any = None,
    module: Any = None,
    callbacks: Any = (),
    trainer: Any = None,
    **unlearn: Any,
) -> tuple[dict[str, torch.Tensor], Passes]:
    seen = Passes()
    net = network()
    whole_module = UnlearningModule(
        net, optimizer=lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.5), **(module or {})
    )
    forget = Unlearn(NPO(beta=0.3) if objective is None else objective, passes=passes, **unlearn)
    settings = {
        "max_steps": STEPS,
        "limit_val_batches": 0,
        "precision": "64-true",
        "log_every_n_steps": 0,
        **(trainer or {}),
    }
    data = ForgetRetainData(
        retain=DataLoader(rows(1, 11), batch_size=4),
        forget=DataLoader(rows(2, 9), batch_size=2),
        order=SequentialOrder(),
    )
    torch.manual_seed(5)
    quiet(max_epochs=-1, callbacks=[forget, seen, *callbacks], **settings).fit(whole_module, datamodule=data)
    state = {name: p.detach().clone() for name, p in net.named_parameters()}
    return state, seen


def small_gpt2(**settings: Any) -> nn.Module:
    sizes = {"vocab_size": VOCABULARY, "n_positions": 32, "n_embd": 16, "n_layer": 1, "n_head": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return GPT2LMHeadModel(GPT2Config(**{**sizes, **settings}))


def untied() -> nn.Module:
    return small_gpt2(tie_word_embeddings=False, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)


def checkpointed() -> nn.Module:
    network = family("gpt2")
    checkpoint_activations(network)
    return network


def dropping() -> nn.Module:
    return small_gpt2()  # dropout of 0.1


def compiled() -> nn.Module:
    network = family("gpt2")
    network.compile(backend="eager")
    return network


def switchable() -> nn.Module:
    return small_gpt2(attn_pdrop=0)


# GPT-2: its norms compute in float64, where those of Llama round to float32.
FITS: dict[str, dict[str, Any]] = {
    "npo": {},
    "ascent": {"objective": GradientAscent(), "weight": 0.3},
    "simnpo": {"objective": SimNPO(beta=1.0)},
    "random labels": {"objective": RandomLabel()},
    "retained by kl": {"module": {"retain": KLToReference()}},
    "untied": {"network": untied},
    "checkpointed": {"network": checkpointed},
    "lora": {"network": lambda: family("gpt2", lora=True)},
    "accumulation": {"trainer": {"accumulate_grad_batches": 3, "max_steps": 2}},
    "clipping": {"trainer": {"gradient_clip_val": 0.1}},
    "features": {"module": {"readout": PackedCausalLMReadout(keep_features=True)}},
}


@pytest.mark.parametrize("how", FITS)
def test_the_step_is_that_of_two_passes(how: str) -> None:
    apart, two = fit(TwoPasses(), **deepcopy(FITS[how]))  # objectives that draw keep a generator
    joined, one = fit(ONE, **deepcopy(FITS[how]))
    for name, value in apart.items():
        assert_close(joined[name], value, rtol=0, atol=1e-12, msg=lambda m, name=name: f"{name}: {m}")
    assert max((apart[n] - p.double()).abs().max() for n, p in start(how).items()) > 1e-3  # it did move
    for a, b in zip(two.logged, one.logged, strict=True):
        assert a == pytest.approx(b, abs=1e-6)  # losses are logged in float32
    each = FITS[how].get("trainer", {}).get("accumulate_grad_batches", 1)
    steps = STEPS // each
    assert two.counted[:steps] == [2 * each] * steps
    assert one.counted[:steps] == [2 * each - (each - 1), *[each] * (steps - 1)]  # the first micro-batch is measured


def start(how: str) -> dict[str, torch.Tensor]:
    network = FITS[how].get("network", lambda: family("gpt2"))()
    return {name: p.detach() for name, p in network.named_parameters()}


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma2", "opt", "phi"])
def test_other_families_agree_to_the_rounding_of_their_norms(name: str) -> None:
    apart, two = fit(TwoPasses(), lambda: family(name))
    joined, one = fit(ONE, lambda: family(name))
    for parameter, value in apart.items():
        assert_close(joined[parameter], value, rtol=0, atol=1e-6)
    assert two.counted[1] == 2
    assert one.counted[1] == 1


@pytest.mark.parametrize("network", [lambda: family("gpt2"), untied], ids=["tied", "untied"])
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_half_precision_is_as_near_as_two_orders_of_summation(precision: Any, network: Any) -> None:
    apart, _ = fit(TwoPasses(), network, trainer={"precision": precision})
    joined, one = fit(ONE, network, trainer={"precision": precision})
    exact, _ = fit(TwoPasses(), network)
    off = [max(float((x[n].double() - exact[n]).abs().max()) for n in exact) for x in (joined, apart)]
    assert off[0] <= 2 * off[1]
    assert one.counted[1] == 1


@pytest.mark.parametrize("name", ["norms", "every other"])
def test_where_norms_are_measured_there_are_two_passes(name: str) -> None:
    every = {"norms": 1, "every other": 2}[name]
    _, seen = fit(ONE, trainer={"log_every_n_steps": every})
    # Of the last of each pair nothing is asked but the losses.
    expected = [2] * STEPS if every == 1 else [2, 2, 2, 1, 2, 1]
    assert seen.counted[:STEPS] == expected


class Looks(pl.Callback):
    def on_after_backward(self, *_: Any) -> None:
        pass


class OwnHook(UnlearningModule):
    def on_after_backward(self) -> None:
        pass


APART: dict[str, dict[str, Any]] = {
    "dropout": {"network": dropping},
    "a projector": {"projector": HalfSpace()},
    "a transform": {"transforms": [RowMask(share=0.5)]},
    "an optimizer of its own": {"optimizer": lambda params: torch.optim.SGD(params, lr=0.1)},
    "under attack": {"under": {"int4": Quantize(bits=4)}, "under_every": 100},
    "a callback that sees the retain gradient": {"callbacks": [Looks()]},
    "a guard": {"callbacks": [StepGuard()], "trainer": {"precision": "32-true"}},
    "another readout": {"readout": CausalLMReadout()},
    "a compiled network, which is read plainly": {"network": compiled},
    "a readout that pads": {"module": {"readout": CausalLMReadout()}},
}


@pytest.mark.parametrize("why", APART)
def test_what_needs_two_passes_has_them_and_stays_as_it_is(why: str) -> None:
    apart, two = fit(TwoPasses(), **APART[why])
    joined, one = fit(ONE, **APART[why])
    assert all(torch.equal(apart[name], joined[name]) for name in apart)
    assert one.logged == two.logged
    assert one.counted == two.counted
    assert min(one.counted[:STEPS]) >= 2


def test_dropout_that_is_switched_on_later_is_noticed() -> None:
    class SwitchOn(pl.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            for part in pl_module.modules():
                if isinstance(part, nn.Dropout):
                    part.p = 0.1 if trainer.global_step >= 3 else 0.0

    class Off(SwitchOn):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            self.on_train_batch_start(trainer, pl_module)

    apart, _ = fit(TwoPasses(), switchable, callbacks=[Off()])
    joined, one = fit(ONE, switchable, callbacks=[Off()])
    assert one.counted[:STEPS] == [2, 1, 1, 3, 2, 2]  # the third of step 3 found it, and was thrown away
    for name, value in apart.items():
        assert_close(joined[name], value, rtol=0, atol=1e-12)


def test_by_default_activations_above_a_gradient_stay_apart() -> None:
    _, large = fit(CheaperPass(share=1e-6))
    assert large.counted[:STEPS] == [2] * STEPS
    _, small = fit(None, lambda: family("llama"))
    assert small.counted[:STEPS] == [2] * STEPS  # 4 rows keep more than the gradient of a model of this size


def test_a_module_of_ones_own_that_overrides_the_step_is_run_apart() -> None:
    class Own(UnlearningModule):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            loss = CrossEntropy()(self.readout(self.network, batch))
            self.log("retain_loss", loss)
            return loss

    for kind, expected in ((Own, 2), (OwnHook, 2), (UnlearningModule, 1)):
        net, seen = family("llama"), Passes()
        data = ForgetRetainData(
            retain=DataLoader(rows(1, 11), batch_size=4), forget=DataLoader(rows(2, 9), batch_size=2)
        )
        trainer = quiet(max_steps=3, log_every_n_steps=0, callbacks=[Unlearn(NPO(), passes=ONE), seen])
        trainer.fit(kind(net), datamodule=data)
        assert seen.counted[1] == expected


def test_a_checkpoint_holds_what_it_holds_after_two_passes() -> None:
    """So an interrupted fit goes on with the same forget micro-batch, whichever way it ran: see test_resume.py."""
    states = []
    for passes in (TwoPasses(), ONE):
        unlearn = Unlearn(NPO(beta=0.3), passes=passes)
        data = ForgetRetainData(
            retain=DataLoader(rows(1, 11), batch_size=4), forget=DataLoader(rows(2, 9), batch_size=2)
        )
        trainer = quiet(max_steps=4, log_every_n_steps=0, callbacks=[unlearn], accumulate_grad_batches=2, max_epochs=-1)
        trainer.fit(UnlearningModule(family("gpt2")), datamodule=data)
        states.append(unlearn.state_dict())
    assert states[0]["position"] == states[1]["position"] == 8
    assert states[0]["steps"] == states[1]["steps"] == {"merged": 4, "taken": 4}


def test_a_forget_loss_that_is_not_finite_is_refused() -> None:
    class Infinite(GradientAscent):
        def forward(self, student: Any, reference: Any = None) -> torch.Tensor:
            self.called = getattr(self, "called", 0) + 1
            return super().forward(student) * (float("inf") if self.called == 3 else 1.0)

    with pytest.raises(FloatingPointError, match="at step 2"):
        fit(ONE, objective=Infinite())


@pytest.mark.slow
@pytest.mark.parametrize("kind", LANGUAGE_MODELS)
@pytest.mark.parametrize(("accumulate", "network"), [(1, "tied"), (2, "tied"), (1, "untied")])
def test_two_processes_take_the_same_step_in_one_pass_and_in_two(kind: str, accumulate: int, network: str) -> None:
    def on_rank(rank: int, world: int, passes: Any) -> Any:
        make, strategy = LANGUAGE_MODELS[kind]
        net = untied() if network == "untied" else family("gpt2")
        module, seen = make(net.double(), optimizer=lambda params: torch.optim.SGD(params, lr=0.1)), Passes()
        retain, forget = rows(1, 11), rows(2, 9)
        trainer = quiet(
            strategy=strategy(),
            devices=world,
            max_steps=3,
            max_epochs=-1,
            log_every_n_steps=0,
            accumulate_grad_batches=accumulate,
            use_distributed_sampler=False,
            callbacks=[
                Unlearn(NPO(beta=0.3), forget=DataLoader(forget, batch_size=1), passes=passes),
                seen,
            ],
        )
        sampler = DistributedSampler(retain, world, rank, shuffle=False)  # type: ignore[arg-type]
        trainer.fit(module, DataLoader(retain, batch_size=2, sampler=sampler))  # type: ignore[arg-type]
        return whole(module, None), seen.logged, seen.counted[:3]

    apart = run_ranks(lambda rank, world: on_rank(rank, world, TwoPasses()))
    joined = run_ranks(lambda rank, world: on_rank(rank, world, ONE))
    for (expected, logged, _), (found, logged_there, passes) in zip(apart, joined, strict=True):
        for name, value in expected.items():
            assert_close(found[name], value, rtol=0, atol=1e-12, msg=lambda m, name=name: f"{name}: {m}")
        assert all(a == pytest.approx(b, abs=1e-6) for a, b in zip(logged, logged_there, strict=True))
        assert passes[1:] == [accumulate, accumulate]
