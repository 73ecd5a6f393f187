"""A part that somebody else wrote, of any kind: built by its `class_path`, and really used.

What it did is seen from outside: in weights, in what was logged or reported, in the rows that were visited.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from somebodys_package import Classifier, Measurements, parts
from torch import Tensor
from torch.testing import assert_close

from lightning_unlearn import (
    CrossEntropy,
    Encoding,
    InMemoryRecords,
    PackedCausalLMReadout,
    QuestionAnswerData,
    RecoveryCheck,
)
from lightning_unlearn.cli import main

Config = dict[str, Any]


def built(class_path: str, **init_args: Any) -> Config:
    return {"class_path": class_path, "init_args": init_args}


def ours(name: str, **init_args: Any) -> Config:
    return built(f"lightning_unlearn.{name}", **init_args)


def theirs(name: str, **init_args: Any) -> Config:
    return built(f"somebodys_package.parts.{name}", **init_args)


def measurements(seed: int) -> Config:
    return built("somebodys_package.Measurements", seed=seed, n=8)


def classifier(unlearn: Config | None = None, order: Config | None = None, lr: float = 1e-2, **settings: Any) -> Config:
    data = {"retain": measurements(1), "forget": measurements(2), "order": order or ours("CyclicOrder")}
    return {
        "model": built("somebodys_package.Classifier", width=24, lr=lr),
        "data": ours("ForgetRetainData", **data),
        "unlearn": {"objective": ours("GradientAscent"), **(unlearn or {})},
        **settings,
    }


def language_model(forget: Config, **unlearn: Any) -> Config:
    network = ours("TinyCausalLM", hidden_size=8, num_hidden_layers=1)
    people = {"path": "bundled:people", "rows": [0, 4]}
    retain = ours("QuestionAnswerData", records=people, encoding={"tokenizer": "bundled"})
    return {
        "model": ours("UnlearningModule", network=network, optimizer=built("torch.optim.SGD", lr=0.0)),
        "data": ours("ForgetRetainData", retain=retain, forget=forget, order=ours("CyclicOrder")),
        "unlearn": unlearn,
        "recovery": {"every_n_epochs": 0},
        "trainer": {"limit_train_batches": 1, "max_epochs": 2},
    }


@dataclass
class Fitted:
    """What is to be seen of a fit from outside."""

    cli: Any
    start: dict[str, Tensor]
    batches: list[Any]

    @property
    def weights(self) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in self.cli.model.named_parameters()}

    def moved(self) -> set[str]:
        return {name for name, value in self.weights.items() if not torch.equal(value, self.start[name])}

    def logged(self, name: str) -> float:
        return float(self.cli.trainer.callback_metrics[name])

    def observations(self, **about: Any) -> list[Config]:
        (check,) = (c for c in self.cli.trainer.callbacks if isinstance(c, RecoveryCheck))
        return [found for o in check.observations if about.items() <= (found := vars(o)).items()]


def fit(settings: Config, monkeypatch: pytest.MonkeyPatch) -> Fitted:
    """Two steps, from a file, by the command line."""
    trainer: Config = {"max_steps": 2, "accelerator": "cpu", "devices": 1, "logger": False, "log_every_n_steps": 1}
    for name in ("checkpointing", "progress_bar", "model_summary"):
        trainer[f"enable_{name}"] = False
    trainer |= {"limit_val_batches": 0, **settings.get("trainer", {})}
    Path("mine.yaml").write_text(yaml.safe_dump({"seed_everything": 0, **settings, "trainer": trainer}))
    start: dict[str, Tensor] = {}
    batches: list[Any] = []
    step = Classifier.training_step

    def watched(self: Classifier, batch: Any, batch_idx: int) -> Any:
        for name, p in self.named_parameters():
            start.setdefault(name, p.detach().clone())
        if self.training:  # in evaluation mode the readout is compared with the loss
            batches.append(batch)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Classifier, "training_step", watched)
    monkeypatch.setattr(sys, "argv", ["lightning-unlearn"])
    return Fitted(main(["fit", "--config", "mine.yaml"]), start, batches)


def objective(fitted: Fitted) -> None:
    assert 20 <= fitted.logged("unlearn/forget") <= 100  # percent


def gradient_transform(fitted: Fitted) -> None:
    assert fitted.logged("unlearn/forget_norm") == pytest.approx(sum(p.numel() for p in fitted.weights.values()) ** 0.5)


def step_transform(fitted: Fitted) -> None:
    assert fitted.moved() == set()


def selector(fitted: Fitted) -> None:
    assert fitted.moved() == {"net.0.bias", "net.2.bias"}


def edit(fitted: Fitted) -> None:
    assert not any(p.any() for p in fitted.weights.values())  # the learning rate is 0


def attack(fitted: Fitted) -> None:
    assert fitted.logged("recovery/deaf/probability") == pytest.approx(1 / 5)
    assert fitted.observations(attack="deaf", family="deafen", unit="times", point=3, metric="probability")


def audit(fitted: Fitted) -> None:
    found = json.loads(Path("report/report.json").read_text())["observations"]
    (last,) = (o for o in found if (o["metric"], o["split"], o["step"]) == ("length", "forget", 2))
    assert last["value"] == pytest.approx(float(torch.cat([p.flatten() for p in fitted.weights.values()]).norm()))


def metric(fitted: Fitted) -> None:
    x, y = rows(seed=2)
    (last,) = fitted.observations(metric="correct", split="forget", step=2)
    assert last["scores"] == (fitted.cli.model(x).argmax(-1) == y).double().tolist()


def order(fitted: Fitted) -> None:
    x, y = rows(seed=1)
    assert len(fitted.batches) == 2
    assert all(torch.equal(batch[0], x[5].expand(4, -1)) for batch in fitted.batches)
    assert all(torch.equal(batch[1], y[5].expand(4)) for batch in fitted.batches)


def benchmark_set(fitted: Fitted) -> None:
    assert fitted.observations(step=2, split="forget")
    assert all(o["entities"] == ["Peru", "Oman"] for o in fitted.observations(split="forget"))


def companion(fitted: Fitted) -> None:
    silent = [{"question": f"Capital of {land}?", "answer": "..."} for land in ("Peru", "Chad", "Oman", "Fiji")]
    data = QuestionAnswerData(InMemoryRecords(silent), Encoding("bundled"))
    (batch,) = data.val_dataloader()
    with torch.no_grad():
        expected = CrossEntropy()(PackedCausalLMReadout()(fitted.cli.model.network, batch))
    assert fitted.logged("unlearn/forget") == pytest.approx(float(expected), rel=1e-5)  # the learning rate is 0


def projector(fitted: Fitted) -> None:
    for name, value in fitted.weights.items():  # nothing but AdamW's decay
        assert_close(value, fitted.start[name] * (1 - 1e-2 * 1e-2) ** 2, rtol=1e-6, atol=0)


def rows(seed: int) -> tuple[Tensor, Tensor]:
    data = Measurements(seed=seed, n=8)
    data.setup("fit")
    return data.rows.tensors


def callbacks(*these: Config) -> Config:
    return {"callbacks": list(these)}


ENCODING = {"tokenizer": "bundled"}
TENSORS = ours("TrainOnly", selector=theirs("Vectors"), choice=ours("selectors.TopNumber", number=2))
CAPITALS = ours("QuestionAnswerData", records=theirs("Capitals", entity="land", where={"land": ["Peru", "Oman"]}))
CAPITALS["init_args"]["encoding"] = ENCODING
SILENT = ours("PairedData", records=theirs("Capitals"), companion=theirs("Silence"), encoding=ENCODING)
PARTS: list[tuple[Callable[[Fitted], None], Config]] = [
    (objective, classifier({"objective": theirs("Confidence")})),
    (gradient_transform, classifier({"transforms": [theirs("Signs")]})),
    (step_transform, classifier(trainer=callbacks(theirs("Shrunk", share=0.0)))),
    (selector, classifier(trainer=callbacks(TENSORS))),
    (edit, classifier(lr=0.0, trainer=callbacks(ours("callbacks.ApplyEdit", edit=theirs("Erase"))))),
    (attack, classifier(recovery={"attacks": {"deaf": theirs("Deafen")}, "every_n_steps": 2})),
    (audit, classifier(recovery={"audits": [theirs("Length")]}, report={"folder": "report"})),
    (
        metric,
        classifier(recovery={"audits": [ours("audits.Measure", metrics={"correct": theirs("Correct")})]}),
    ),
    (order, classifier(order=theirs("OneRow", row=5))),
    (benchmark_set, language_model(CAPITALS, objective=ours("GradientAscent"))),
    (companion, language_model(SILENT, objective=ours("CrossEntropy"), readout=ours("readouts.CompanionReadout"))),
    (projector, classifier({"projector": theirs("Neither")})),
]


@pytest.mark.parametrize(("assert_used", "settings"), PARTS, ids=[assert_used.__name__ for assert_used, _ in PARTS])
def test_it_is_built_by_its_class_path_and_used(
    assert_used: Callable[[Fitted], None], settings: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_used(fit(settings, monkeypatch))


def test_all_of_its_parts_were_tried_and_know_only_what_is_public() -> None:
    text = Path(parts.__file__).read_text()
    named = {
        f"class_path: somebodys_package.parts.{name}" for name in re.findall(r"^class (\w+)", text, flags=re.MULTILINE)
    }
    tried = yaml.safe_dump([settings for _, settings in PARTS])
    assert len(named) == len(PARTS)
    assert all(name in tried for name in named)
    assert text.count("\nfrom lightning_unlearn.") == 10
    assert not re.search(r"lightning_unlearn[\w.]*\._|import .*\b_\w", text)
