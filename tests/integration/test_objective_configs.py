"""Every configuration of an objective trains, and forgets by its own measure."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import torch
import yaml
from _modules import quiet
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn

from lightning_unlearn import (
    DPO,
    PackedCausalLMReadout,
    Prediction,
    Unlearn,
    UnlearningModule,
    objectives,
)
from lightning_unlearn.cli import bundled_configs, main, read_config
from lightning_unlearn.data import build as build_source
from lightning_unlearn.data import in_order
from lightning_unlearn.functional.logistic import probe_direction
from lightning_unlearn.models import TinyCausalLM
from lightning_unlearn.objectives import CrossEntropy
from lightning_unlearn.readouts import PairedReadout
from lightning_unlearn.runtime import eval_without_grad

CONFIGS = {name: path for name, path in bundled_configs().items() if path.parent.name == "objectives"}
SIZES = {"hidden_size": 64, "num_hidden_layers": 2}
STEPS = 20


def probability(prediction: Prediction) -> float:
    """Geometric mean over the tokens of an answer, mean over answers."""
    return float((-prediction.example_nll() / prediction.rows_per_example()).exp().mean())


def answer_probability(unlearn: Unlearn, network: nn.Module, batch: Any) -> float:
    """Of the answers that must go; of a pair of answers, these are the plain batch."""
    return probability(PackedCausalLMReadout()(network, batch))


def odds_against_companion(unlearn: Unlearn, network: nn.Module, batch: Any) -> float:
    """How many times likelier what must go is than what to say instead, a refusal or a rewritten trace, per token."""
    return answer_probability(unlearn, network, batch) / answer_probability(unlearn, network, batch["companion"])


def distance_to_control(unlearn: Unlearn, network: nn.Module, batch: Any) -> float:
    """Of the hidden states of the answers that must go from the control vector, squared."""
    return float(unlearn.objective(unlearn.readout(network, batch)))


def gap_along_a_fresh_probe(unlearn: Unlearn, network: nn.Module, batch: Any) -> float:
    """Squared, between answers that must go and their companions, along what tells them apart now; the sum over layers."""
    last = unlearn.objective.last_states(unlearn.readout(network, batch))
    layers = [last.forget.unbind(1), last.companion.unbind(1)]
    gaps = [(m - c) @ probe_direction(m, c).to(m) for m, c in zip(*layers, strict=True)]
    return float(sum(gap.square().mean() for gap in gaps))


@dataclass
class Sign:
    """What falls in twenty steps, and at least to which fraction of what it was; so does the answer, to ``answers_to``."""

    measure: Callable[[Unlearn, nn.Module, Any], float]
    falls_to: float
    answers_to: float = 0.95


# What shows that an objective did what it is for. A taught answer starts at a probability of about 0.9.
SIGNS = {
    "npo": Sign(answer_probability, 0.5),
    "sim_npo": Sign(answer_probability, 0.5),
    "gradient_ascent": Sign(answer_probability, 0.5),
    "wga": Sign(answer_probability, 0.5),
    "sat_imp": Sign(answer_probability, 0.5),
    "ceu": Sign(answer_probability, 0.5),
    "undial": Sign(answer_probability, 0.5),
    "pdu": Sign(answer_probability, 0.5),
    "random_label": Sign(answer_probability, 0.5),
    "fixed_random_label": Sign(answer_probability, 0.5),
    "uniform_label": Sign(answer_probability, 0.5),
    "importance_scheduled": Sign(answer_probability, 0.5),
    "kl_retain": Sign(answer_probability, 0.5),
    "top_k_kl_retain": Sign(answer_probability, 0.5),
    "dpo_idk": Sign(odds_against_companion, 0.1),
    "scope_term": Sign(answer_probability, 0.5),
    "prompt_decouple": Sign(answer_probability, 0.5),
    "idk": Sign(odds_against_companion, 0.1),
    "span_pair": Sign(odds_against_companion, 0.1),
    "rmu": Sign(distance_to_control, 0.9),
    "encoded_match": Sign(answer_probability, 0.5),
    "representation_deviation": Sign(answer_probability, 0.5),
    "gradient_reversal_probe": Sign(answer_probability, 0.9),
    "probe_alignment": Sign(gap_along_a_fresh_probe, 0.6, answers_to=1.05),  # it hides, and says so
    "jens_un": Sign(answer_probability, 0.5),
    "prototypes": Sign(answer_probability, 0.5),
    "flat": Sign(answer_probability, 0.5),
    "mlp_confuse": Sign(answer_probability, 0.5),
    "mcu": Sign(answer_probability, 0.5),
    "circuit_breaker": Sign(answer_probability, 0.5),
}

every = pytest.mark.parametrize("name", SIGNS)


def test_every_objective_has_a_configuration_and_every_configuration_a_sign() -> None:
    assert set(CONFIGS) == set(SIGNS)
    text = "".join(path.read_text() for path in CONFIGS.values())
    assert {name for name in objectives.__all__ if f".{name}" not in text} == {"Objective", "PrototypeObjective"}


def build(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, **trainer: Any) -> Any:
    """What the configuration says, with a network of a size for tests, and without teaching, usual checks and report."""
    settings = read_config(CONFIGS[name])
    for part in ("finetune_first", "report"):
        del settings[part]
    if "audits" in settings["recovery"]:  # of its own, which are part of what it shows
        settings["recovery"] = {"audits": settings["recovery"]["audits"][-1:], "every_n_epochs": 1}
    else:
        del settings["recovery"]
    settings["model"]["init_args"]["network"]["init_args"] = dict(SIZES)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1, "max_epochs": -1}
    settings["trainer"].update({**quiet, **trainer})
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(settings))
    monkeypatch.setattr(sys, "argv", ["lightning-unlearn"])
    return main(["--config", str(path)], run=False)


@pytest.fixture(scope="session")
def taught() -> dict[str, Tensor]:
    """Weights of a network that knows the answers."""
    network, objective, readout = TinyCausalLM(**SIZES), CrossEntropy(), PackedCausalLMReadout()
    batches = [batch for loader in (*loaders("npo"), loaders("span_pair")[0]) for batch in in_order(loader)]
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0)
    for _ in range(40):
        for batch in batches:
            objective(readout(network, batch)).backward()
            optimizer.step()
            optimizer.zero_grad()
    return network.state_dict()


def loaders(name: str) -> tuple[Any, Any]:
    data = build_source(read_config(CONFIGS[name])["data"], LightningDataModule)
    data.setup("fit")
    return data.forget_dataloader(), data.retain.loader()


@every
def test_it_trains(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cli = build(name, monkeypatch, tmp_path, max_steps=2)
    before = [p.detach().clone() for p in cli.model.parameters()]
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    (unlearn,) = (c for c in cli.trainer.callbacks if isinstance(c, Unlearn))
    assert unlearn._steps == {"merged": 2, "taken": 2}
    assert torch.isfinite(cli.trainer.callback_metrics["unlearn/forget"])
    assert ("recovery/none/retain_refusals" in cli.trainer.callback_metrics) == (name == "prompt_decouple")
    assert any(not torch.equal(p, q) for p, q in zip(before, cli.model.parameters(), strict=True))


@pytest.mark.slow
@every
def test_it_forgets(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, taught: dict[str, Tensor]) -> None:
    cli = build(name, monkeypatch, tmp_path, max_steps=STEPS)
    cli.model.network.load_state_dict(taught)
    (unlearn,) = (c for c in cli.trainer.callbacks if isinstance(c, Unlearn))

    def measured(measure: Callable[[Unlearn, nn.Module, Any], float]) -> float:
        with eval_without_grad(cli.model.network):
            values = [measure(unlearn, cli.model.network, batch) for batch in forget]
        return sum(values) / len(values)

    cli.datamodule.setup("fit")
    forget = list(in_order(cli.datamodule.forget_dataloader()))
    measures = {answer_probability: SIGNS[name].answers_to, SIGNS[name].measure: SIGNS[name].falls_to}
    before = {measure: measured(measure) for measure in measures}
    assert before[answer_probability] > 0.8
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    for measure, falls_to in measures.items():
        assert measured(measure) < falls_to * before[measure], measure.__name__


@pytest.mark.slow
def test_jens_un_drowns_beside_an_ordinary_retain_loss_but_for_an_optimizer_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, taught: dict[str, Tensor]
) -> None:
    left = {}
    for own in (True, False):
        cli = build("jens_un", monkeypatch, tmp_path, max_steps=40)
        cli.model.network.load_state_dict(taught)
        cli.model.retain = CrossEntropy()
        cli.model.optimizer = partial(torch.optim.AdamW, lr=5e-4, weight_decay=0.0)
        (unlearn,) = (c for c in cli.trainer.callbacks if isinstance(c, Unlearn))
        unlearn.optimizer = cli.model.optimizer if own else None
        cli.trainer.fit(cli.model, datamodule=cli.datamodule)
        with eval_without_grad(cli.model.network):
            batches = in_order(cli.datamodule.forget_dataloader())
            left[own] = [answer_probability(unlearn, cli.model.network, batch) for batch in batches]
    assert max(left[True]) < 0.5
    assert mean(left[False]) > 0.8


def test_alternate_answers_from_a_file_come_to_be_preferred(taught: dict[str, Tensor], tmp_path: Path) -> None:
    """AltPO: the configuration of DPO, with another answer to each question in place of a refusal."""
    settings = read_config("bundled:dpo_idk")["data"]
    asked = build_source(settings["init_args"]["forget"], LightningDataModule).records.questions()
    lines = [{"question": row.question, "alternate": f"Nobody knows number {i}"} for i, row in enumerate(asked)]
    (tmp_path / "others.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    others = {"records": {"path": str(tmp_path / "others.jsonl")}}
    settings["init_args"]["forget"]["init_args"]["companion"] = {"class_path": "Alternates", "init_args": others}
    data = build_source(settings, LightningDataModule)
    forget = data.forget.source
    network = TinyCausalLM(**SIZES)
    network.load_state_dict(taught)
    unlearn = Unlearn(DPO(), readout=PairedReadout())

    def odds() -> float:
        with eval_without_grad(network):
            batches = list(forget.val_dataloader())
            return sum(odds_against_companion(unlearn, network, batch) for batch in batches) / len(batches)

    before = odds()
    module = UnlearningModule(network, optimizer=lambda p: torch.optim.AdamW(p, lr=5e-4))
    trainer = quiet(callbacks=[unlearn], max_steps=STEPS, max_epochs=-1, limit_val_batches=0)
    trainer.fit(module, datamodule=data)
    assert odds() < 0.1 * before
