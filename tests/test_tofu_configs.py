"""The configurations of full TOFU build, with a tiny network and tokenizer in the place of Llama's."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from _shared_data import DATA

from lightning_unlearn import RecoveryCheck, TOFUData, TOFUSplit
from lightning_unlearn.audits.tofu import TOFU
from lightning_unlearn.cli import main, read_config
from lightning_unlearn.report import RobustnessReport

LLAMA = "../shared/data/models/Llama-3.2-1B-Instruct"


def with_tiny(settings: Any) -> Any:
    if isinstance(settings, dict):
        return {name: with_tiny(value) for name, value in settings.items()}
    if isinstance(settings, list):
        return [with_tiny(value) for value in settings]
    return (
        {LLAMA: "bundled", "../shared/data/tofu": "tofu"}.get(settings, settings)
        if isinstance(settings, str)
        else settings
    )


@pytest.mark.parametrize("name", ["forget01", "forget05", "forget10"])
def test_it_builds_with_its_split_and_the_audit_of_tofu(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lightning-unlearn"])
    (tmp_path / "tofu").mkdir()
    for file in ("full", "forget10_perturbed", "retain_perturbed", "real_authors_perturbed", "world_facts_perturbed"):
        (tmp_path / "tofu" / f"{file}.jsonl").write_text(json.dumps({"question": "Who?", "answer": "Ada"}))
    settings = with_tiny(read_config(f"bundled:tofu_{name}"))
    settings["model"]["init_args"]["network"] = {"class_path": "lightning_unlearn.TinyCausalLM"}
    settings["trainer"] |= {"accelerator": "cpu"}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(settings))
    cli = main(["--config", "tiny.yaml"], run=False)
    assert isinstance(cli.datamodule, TOFUData)
    assert cli.datamodule.split == TOFUSplit.published(name)  # type: ignore[arg-type]
    check = next(callback for callback in cli.trainer.callbacks if isinstance(callback, RecoveryCheck))
    assert any(isinstance(audit, TOFU) for audit in check.audits)
    assert settings["finetune_first"]["control"] is True


def shortened(value: Any) -> Any:
    if isinstance(value, list):
        return [shortened(each) for each in value[:2]]
    return " ".join(value.split()[:3]) if isinstance(value, str) else value


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")  # a few steps of a tiny network are no fit of Llama's
@pytest.mark.skipif(not (DATA / "tofu").is_dir(), reason="needs TOFU; set LIGHTNING_UNLEARN_DATA")
def test_it_runs_from_the_teaching_to_a_report_with_tofus_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of forget01, whose base is the others', with short rows, short attacks, and two batches to forget."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lightning-unlearn"])
    (tmp_path / "tofu").mkdir()
    sizes = {"full": 4000, "forget10_perturbed": 400, "retain_perturbed": 8}
    for file, most in {**sizes, "real_authors_perturbed": 4, "world_facts_perturbed": 4}.items():
        rows = [json.loads(line) for line in (DATA / "tofu" / f"{file}.jsonl").read_text().splitlines()[:most]]
        short = [{name: shortened(value) for name, value in row.items()} for row in rows]
        (tmp_path / "tofu" / f"{file}.jsonl").write_text("\n".join(map(json.dumps, short)))
    settings = with_tiny(read_config("bundled:tofu_forget01"))
    settings["model"]["init_args"]["network"] = {"class_path": "lightning_unlearn.TinyCausalLM"}
    settings["finetune_first"] |= {"epochs": 1, "lr": 3.0e-3, "batch_size": 64}
    settings["trainer"] |= {"accelerator": "cpu", "max_epochs": 1, "limit_train_batches": 2}
    settings["recovery"]["audits"][1]["init_args"]["max_new_tokens"] = 4
    settings["recovery"]["attacks"]["full"]["init_args"]["steps"] = 1
    del settings["recovery"]["attacks"]["nf4"], settings["recovery"]["attacks"]["adapter"]
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(settings))
    main(["fit", "--config", "tiny.yaml"])

    report = RobustnessReport.load("runs/tofu_forget01")
    values = {(o.subject, o.metric): o.value for o in report.observations if o.attack == "none" and o.split == "forget"}
    assert {o.attack for o in report.observations} == {"none", "int4", "full"}
    assert {o.subject for o in report.observations} == {"original", "unlearned", "control"}
    assert not report.failures
    assert values["control", "forget_quality"] == 1.0
    assert values["control", "retain_model_distance"] == 0.0 < values["unlearned", "retain_model_distance"]
