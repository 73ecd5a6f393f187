"""TOFU in a check: the control is the retain model, the model that knows all is far from it, and the fit does not notice."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from _modules import quiet
from _ranks import run_ranks
from _sharded_fits import LANGUAGE_MODELS
from safetensors.torch import save_model
from torch import nn
from torch.utils.data import DataLoader

from lightning_unlearn import (
    NPO,
    CausalLMReadout,
    CrossEntropy,
    Encoding,
    FileRecords,
    FinetuneFirst,
    ForgetRetainData,
    LoaderSettings,
    Quantize,
    QuestionAnswerData,
    RecoveryCheck,
    SequentialOrder,
    TinyCausalLM,
    Unlearn,
    UnlearningModule,
    WriteReport,
)
from lightning_unlearn.auditing import audit
from lightning_unlearn.audits import Measure, Unattacked
from lightning_unlearn.audits.tofu import TOFU, alternatives, tofu_probes, tofu_scores, tofu_summary
from lightning_unlearn.data import InMemoryRecords
from lightning_unlearn.observation import Observation

pytestmark = pytest.mark.slow

ENCODING = Encoding("bundled")
FORGET, RETAIN = (0, 12), (30, 42)


def rows(first: int, last: int) -> list[dict[str, Any]]:
    people = FileRecords("bundled:people", entity="entity").questions()
    return [
        {
            "question": people[n].question,
            "answer": people[n].answer,
            "entity": people[n].entity,
            "perturbed_answer": [people[(n + k) % len(people)].answer for k in (42, 48)],
        }
        for n in range(first, last)
    ]


SPLITS = {
    "forget": rows(*FORGET),
    "retain": rows(*RETAIN),
    "real_authors": rows(60, 62),
    "world_facts": rows(62, 64),
}


def data(found: list[dict[str, Any]]) -> QuestionAnswerData:
    records = InMemoryRecords(found, entity="entity")
    return QuestionAnswerData(records, ENCODING, LoaderSettings(batch_size=6, shuffle=False))


def network() -> nn.Module:
    return TinyCausalLM(hidden_size=64, num_hidden_layers=1)


def taught(*splits: str) -> nn.Module:
    net, loss = network(), CrossEntropy()
    batches = [batch for split in splits for batch in data(SPLITS[split]).val_dataloader()]
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for _ in range(60):
        for batch in batches:
            loss(CausalLMReadout()(net, batch)).backward()
            optimizer.step()
            optimizer.zero_grad()
    return net.eval()


@cache
def models() -> dict[str, nn.Module]:
    return {"original": taught("forget", "retain"), "control": taught("retain")}


def tofu_check(**settings: Any) -> RecoveryCheck:
    save_model(models()["control"], "control.safetensors")
    probes = {name: data(found) for split, of in SPLITS.items() for name, found in alternatives(split, of).items()}
    about = {"audits": [Measure(), TOFU("bundled", max_new_tokens=8)], "control": "control.safetensors", **settings}
    return RecoveryCheck({"int4": Quantize(bits=4)}, probes=probes, every_n_epochs=0, **about)


def fit(*callbacks: Any) -> nn.Module:
    net = network()
    net.load_state_dict(models()["original"].state_dict())
    source = ForgetRetainData(retain=data(SPLITS["retain"]), forget=data(SPLITS["forget"]), order=SequentialOrder())
    trainer = quiet(callbacks=[Unlearn(NPO(beta=0.1)), *callbacks], max_steps=2, max_epochs=1)
    trainer.fit(UnlearningModule(net), datamodule=source)
    return net


def value(observations: list[Observation], subject: str, metric: str, attack: str = "none") -> float:
    (found,) = [
        o.value
        for o in observations
        if (o.subject, o.metric, o.attack) == (subject, metric, attack) and (o.split == "forget" or "utility" in metric)
    ]
    return found


def test_the_control_is_the_retain_model_and_the_original_is_far_from_it() -> None:
    checked = tofu_check()
    fit(checked, WriteReport("report"))
    found = checked.observations
    assert checked.restored
    assert not checked.failures
    for metric, there in (("forget_quality", 1.0), ("forget_degree", 1.0), ("retain_utility", 1.0)):
        assert value(found, "control", metric) == there
    assert value(found, "control", "retain_model_distance") == value(found, "control", "forget_ks") == 0
    assert value(found, "original", "forget_quality") < 0.01
    assert value(found, "original", "retain_model_distance") > 1
    assert value(found, "original", "retain_utility") > 0.9
    # Attacked, the control is not quite what it was.
    assert 0 < value(found, "control", "retain_model_distance", "int4") < 1
    assert 0 <= value(found, "unlearned", "forget_quality", "int4") <= 1
    report = json.loads(Path("report/report.json").read_text())
    assert "forget_quality" in json.dumps(report)


def test_the_same_numbers_as_the_functions_outside_a_fit() -> None:
    checked = tofu_check()
    fit(checked)
    of = tofu_probes(SPLITS, ENCODING, batch_size=5)
    scores = {
        who: tofu_scores(net, CausalLMReadout(), of, ENCODING.tokenizer, max_new_tokens=8)
        for who, net in models().items()
    }
    summary = tofu_summary(scores["original"], scores["control"])
    for name in ("forget_quality", "forget_ks", "forget_degree", "retain_utility", "model_utility"):
        assert value(checked.observations, "original", name) == pytest.approx(summary[name], rel=1e-4)
    distance = value(checked.observations, "original", "retain_model_distance")
    assert distance == pytest.approx(summary["retain_model_distance"], rel=1e-4)


def test_the_fit_does_not_notice() -> None:
    plain, observed = fit(), fit(tofu_check(audits=[Unattacked(TOFU("bundled", max_new_tokens=3))]))
    for before, after in zip(plain.parameters(), observed.parameters(), strict=True):
        assert torch.equal(before, after)


def test_without_a_control_a_fit_does_not_begin() -> None:
    with pytest.raises(ValueError, match=r"TOFU.*a model that never knew, to compare with\. Found no control.*retain="):
        fit(tofu_check(control=None))
    scores = tofu_scores(
        models()["control"],
        CausalLMReadout(),
        tofu_probes(SPLITS, ENCODING),
        ENCODING.tokenizer,
        max_new_tokens=8,
    )
    Path("retain.json").write_text(json.dumps(scores))
    checked = tofu_check(control=None, audits=[TOFU("bundled", retain="retain.json", max_new_tokens=8)])
    fit(checked)
    assert value(checked.observations, "original", "forget_quality") < 0.01
    assert not any(o.subject == "control" for o in checked.observations)


def logged(make: type[UnlearningModule], **settings: Any) -> tuple[dict[str, float], dict[str, float]]:
    """All that a fit that learns nothing logs, and what was observed of the control."""
    net = network()
    net.load_state_dict(models()["original"].state_dict())
    few = {split: found[:4] for split, found in SPLITS.items()}
    probes = {name: data(found) for split, of in few.items() for name, found in alternatives(split, of).items()}
    check = RecoveryCheck(audits=[TOFU("bundled", max_new_tokens=4)], probes=probes, control="control.safetensors")
    unlearn = Unlearn(CrossEntropy(), forget=data(SPLITS["forget"]), weight=1e-9)
    trainer = quiet(use_distributed_sampler=False, callbacks=[unlearn, check], limit_train_batches=1, **settings)
    loader = DataLoader(data(SPLITS["retain"]).dataset, 3, collate_fn=data([]).collate())
    trainer.fit(make(net, optimizer=lambda p: torch.optim.SGD(p, lr=1e-9)), loader)
    assert not check.failures
    assert check.restored
    values = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("recovery/")}
    return values, {f"{o.split} {o.metric}": o.value for o in check.observations if o.subject == "control"}


@pytest.mark.filterwarnings("ignore")  # torch's own, about its first FSDP
@pytest.mark.parametrize("kind", LANGUAGE_MODELS)
def test_two_processes_find_what_one_does(kind: str) -> None:
    save_model(models()["control"], "control.safetensors")
    make, strategy = LANGUAGE_MODELS[kind]
    expected, of_control = logged(UnlearningModule)
    assert 0 < expected["recovery/none/forget_quality"] < 0.1  # with four questions 2 / C(8, 4) is the least
    assert of_control["forget forget_quality"] == 1
    both = run_ranks(lambda rank, world_size: logged(make, strategy=strategy(), devices=world_size), timeout=400)
    for found, found_of_control in both:
        assert found == pytest.approx(expected, abs=1e-4)
        assert found_of_control == pytest.approx(of_control, abs=1e-4)


@pytest.mark.parametrize("first", [True, False])
def test_a_control_that_is_made_in_the_fit_is_the_retain_model(first: bool) -> None:
    checked = tofu_check(control=None)
    made = FinetuneFirst(epochs=3, control=True)
    fit(*([made, checked] if first else [checked, made]))
    assert value(checked.observations, "control", "forget_quality") == 1
    assert value(checked.observations, "control", "retain_model_distance") == 0
    with pytest.raises(ValueError, match=r"TOFU.*Found no control"):
        fit(FinetuneFirst(epochs=1), tofu_check(control=None))


def test_an_audit_of_finished_models_compares_with_its_control() -> None:
    for who, net in models().items():
        save_model(net, f"{who}.safetensors")
    every = {name: found for split, of in SPLITS.items() for name, found in alternatives(split, of).items()}
    report = audit(
        "original.safetensors",
        InMemoryRecords(every.pop("forget"), entity="entity"),
        InMemoryRecords(every.pop("retain"), entity="entity"),
        control="control.safetensors",
        further={name: InMemoryRecords(found, entity="entity") for name, found in every.items()},
        attacks={},
        audits=[TOFU("bundled", max_new_tokens=8)],
        encoding=ENCODING,
        network=network(),
        accelerator="cpu",
        progress=False,
    )
    found = list(report.observations)
    assert value(found, "control", "forget_quality") == 1
    assert value(found, "unlearned", "forget_quality") < 0.01
