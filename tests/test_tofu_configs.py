"""The configurations of full TOFU build, with a tiny network and tokenizer in the place of Llama's."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_unlearn import RecoveryCheck, TOFUData, TOFUSplit
from lightning_unlearn.audits.tofu import TOFU
from lightning_unlearn.cli import main, read_config

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
