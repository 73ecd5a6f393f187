"""A holdout by name, in a configuration: among the probes of the check, or of the datamodule."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml

from lightning_unlearn.cli import main

HOLDOUT = {
    "class_path": "lightning_unlearn.QuestionAnswerData",
    "init_args": {
        "records": {"path": "bundled:people", "entity": "entity", "where": {"group": "retain"}, "rows": [60, 102]},
        "encoding": {"tokenizer": "bundled"},
    },
}
RETAIN = {"init_args": {"retain": {"init_args": {"records": {"rows": [0, 60]}}}}}
WHERE = {
    "check": {"recovery": {"probes": {"holdout": HOLDOUT}}},
    "datamodule": {"data": {"init_args": {"probes": {"holdout": HOLDOUT}}}},
}
AUDITS = [{"class_path": f"lightning_unlearn.audits.{name}"} for name in ("Measure", "Membership")]


@pytest.mark.slow
@pytest.mark.parametrize("where", WHERE)
def test_a_holdout_from_yaml_is_compared_with_the_forget_set(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["lightning-unlearn"])
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    mine = {
        "base": "bundled:base",
        "unlearn": {"objective": "NPO"},
        "finetune_first": {"epochs": 1},
        "trainer": {"max_epochs": 1, "limit_train_batches": 1},
        **WHERE[where],
    }
    mine["data"] = {"init_args": {**RETAIN["init_args"], **mine.get("data", {}).get("init_args", {})}}
    mine["recovery"] = {"audits": AUDITS, **mine.get("recovery", {})}
    Path("mine.yaml").write_text(yaml.safe_dump(mine))
    main(["fit", "--config", "mine.yaml"])
    report = json.loads(next(tmp_path.glob("runs/**/*.json")).read_text())
    found = {(o["metric"], o["split"], o["attack"]) for o in report["observations"]}
    for attack in ("none", "int4"):
        assert ("membership_auc_min_k", "forget", attack) in found
        assert ("blind_auc", "forget_vs_holdout", attack) in found
    assert report["data"]["holdout"]["n"] == 42
    assert {row["score"] for row in report["summary"]["membership"]} == {"loss", "zlib", "min_k", "min_k_plus_plus"}
    assert [gate["code"] for gate in report["gates"]].count("G11") == 1
