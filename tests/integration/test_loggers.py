"""A real fit with each real logger: scalars, curve and page arrive. `dev` brings none of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from _modules import SomebodysModule, loader, quiet
from lightning.pytorch import Trainer

from lightning_unlearn import (
    Bounded,
    ForgetRetainData,
    GradientAscent,
    Quantize,
    RandomOrder,
    RecoveryCheck,
    Unlearn,
    WriteReport,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of packages that are not ours
]
SCALARS = {"unlearn/forget", "recovery/worst", "recovery/int4/probability", "recovery/none/retain_probability"}
FILES = ["curves.png", "model_card.md", "report.html", "report.json", "scores.jsonl"]


def fit(folder: Path, logger: Any) -> Trainer:
    check = RecoveryCheck({"int4": Quantize(bits=4)}, every_n_epochs=1)
    callbacks = [Unlearn(Bounded(GradientAscent(), bound=6.0)), check, WriteReport(str(folder / "report"))]
    trainer = quiet(callbacks=callbacks, max_epochs=3, logger=logger, log_every_n_steps=1)
    data = ForgetRetainData(retain=loader(seed=1), forget=loader(seed=2, n=12), order=RandomOrder())
    trainer.fit(SomebodysModule(), datamodule=data)
    return trainer


def test_tensorboard_has_scalars_plots_and_the_tables(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from lightning.pytorch.loggers import TensorBoardLogger
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit(tmp_path, logger := TensorBoardLogger(tmp_path))
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    tags = events.Tags()
    assert set(tags["scalars"]) >= SCALARS
    assert [event.step for event in events.Scalars("recovery/worst")] == [0, 3, 6, 9]
    assert tags["images"] == ["robustness-report/curves"]
    assert tags["tensors"] == ["robustness-report/text_summary"]


def test_mlflow_has_scalars_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    from lightning.pytorch.loggers import MLFlowLogger

    monkeypatch.chdir(tmp_path)
    logger = MLFlowLogger(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db", artifact_location=str(tmp_path / "files"))
    fit(tmp_path, logger)
    client: Any = logger.experiment
    run = client.get_run(logger.run_id)
    assert set(run.data.metrics) >= SCALARS
    assert [each.step for each in client.get_metric_history(logger.run_id, "recovery/worst")] == [0, 3, 6, 9]
    assert sorted(Path(f.path).name for f in client.list_artifacts(logger.run_id, "robustness-report")) == FILES
    (page,) = (tmp_path / "files").rglob("report.html")
    assert page.read_bytes() == (tmp_path / "report" / "report.html").read_bytes()


def test_wandb_has_scalars_panels_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    from lightning.pytorch.loggers import WandbLogger

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for place in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(place, str(tmp_path / "theirs"))
    logger = WandbLogger(save_dir=tmp_path, project="forgotten", offline=True)
    fit(tmp_path, logger)
    logger.experiment.finish()
    (kept,) = tmp_path.rglob("*.wandb")
    said = kept.read_bytes()
    assert {name for name in SCALARS if name.encode() not in said} == set()
    assert f"robustness-report-{logger.version}".encode() in said
    assert [name for name in FILES if name.encode() not in said] == []
    media = [path.suffix for path in (kept.parent / "files" / "media").rglob("*") if path.is_file()]
    assert sorted(media) == [".html", ".png"]
