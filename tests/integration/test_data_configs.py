"""Every configuration of an order, and of records made of others, trains and is measured."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_unlearn.cli import bundled_configs, main, read_config
from lightning_unlearn.data import CyclicOrder, FileRecords

CONFIGS = {name: path for name, path in bundled_configs().items() if path.parent.name in ("orders", "records")}
PROBES = {
    "combined_queries": "combined",
    "joint_instances": "joint",
    "hierarchy": "siblings",
    "duplicate_dose": "holdout",
}


def small(name: str) -> Any:
    """As it is, but for a smaller network, taught a little, and two epochs with a look at the end of each."""
    settings = read_config(f"bundled:{name}")
    network = {"class_path": "lightning_unlearn.TinyCausalLM", "init_args": {"hidden_size": 16, "num_hidden_layers": 1}}
    settings["model"]["init_args"]["network"] = network
    settings["finetune_first"]["epochs"] = 1
    settings["trainer"] |= {"max_epochs": 2, "enable_progress_bar": False, "enable_model_summary": False}
    return settings


@pytest.fixture(autouse=True)
def _empty_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lightning-unlearn"])
    monkeypatch.setattr(sys, "path", [*sys.path])


def test_all_were_found() -> None:
    assert len(CONFIGS) >= 18


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_it_trains_and_is_measured(name: str, tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small(name)))
    cli = main(["fit", "--config", "small.yaml"])
    assert cli.trainer.global_step > 0
    loss = cli.trainer.logged_metrics
    assert all(math.isfinite(float(value)) for value in loss.values())
    report = json.loads((tmp_path / "runs" / CONFIGS[name].parent.name / name / "report.json").read_text())
    splits = {observation["split"] for observation in report["observations"]}
    assert {"forget", "retain", *([PROBES[name]] if name in PROBES else [])} <= splits
    if CONFIGS[name].parent.name == "orders":
        assert type(cli.datamodule.order) is not CyclicOrder
    else:
        part = "retain" if name == "blacklist" else "forget"
        read = cli.datamodule.probes[PROBES[name]] if name in PROBES else getattr(cli.datamodule, part)
        assert type(read.source.records) is not FileRecords
