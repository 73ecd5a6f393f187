"""What a report records of a real fit, and what loggers get of it."""

from __future__ import annotations

import json
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from _modules import SomebodysModule, loader, quiet
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger

from lightning_unlearn import (
    Bounded,
    ForgetRetainData,
    GradientAscent,
    Quantize,
    RandomOrder,
    RecoveryCheck,
    Relearn,
    Unlearn,
    WriteReport,
)
from lightning_unlearn.report import RobustnessReport
from lightning_unlearn.runtime import checksum

STEPS = 3


class Frozen(SomebodysModule):
    """Declares that it will leave its first layer alone."""

    def on_fit_start(self) -> None:
        next(self.parameters()).requires_grad = False


def fit(folder: Path, module: Any = None, *, check: Any = None, **options: Any) -> tuple[RobustnessReport, Any, Any]:
    module = SomebodysModule() if module is None else module
    attacks = {"int4": Quantize(bits=4), "relearn": Relearn(steps=STEPS, lr=1e-1, mode="full")}
    check = RecoveryCheck(attacks, every_n_epochs=0) if check is None else check
    written = WriteReport(str(folder), to_loggers=options.pop("to_loggers", True))
    callbacks = [Unlearn(Bounded(GradientAscent(), bound=6.0)), check, written, *options.pop("callbacks", [])]
    trainer = quiet(callbacks=callbacks, **{"max_epochs": 2, **options})
    data = ForgetRetainData(retain=loader(seed=1), forget=loader(seed=2, n=12), order=RandomOrder())
    trainer.fit(module, datamodule=data, ckpt_path=None)
    assert written.report is not None
    return written.report, module, check


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[RobustnessReport, Any, Path]:
    """One fit that many tests read."""
    folder = tmp_path_factory.mktemp("plain")
    keep = ModelCheckpoint(folder / "kept", filename="{step}", every_n_epochs=1, save_top_k=-1)
    report, module, _ = fit(folder / "report", callbacks=[keep], enable_checkpointing=True)
    return report, module, folder


def test_the_record_has_the_hashes_of_what_went_in_and_of_what_came_out(plain: Any) -> None:
    before, (report, after, folder) = SomebodysModule(), plain
    assert report.record.weights == {"original": [f"{checksum(before):016x}"], "unlearned": [f"{checksum(after):016x}"]}
    assert RobustnessReport.load(folder / "report") == report


def test_changes_are_those_of_the_weights_themselves(plain: Any) -> None:
    before = {name: p.detach().clone() for name, p in SomebodysModule().named_parameters()}
    report, after, _ = plain
    now = dict(after.named_parameters())
    assert [change.tensor for change in report.record.changes] == list(before)
    for change in report.record.changes:
        old, new = before[change.tensor], now[change.tensor].detach()
        assert change.changed == (not torch.equal(old, new))
        assert change.share == pytest.approx((old != new).float().mean().item(), abs=0.05)
        if old.numel() <= 512 and old.norm() > 0:
            assert change.relative == pytest.approx(((new - old).norm() / old.norm()).item(), rel=1e-4)


def test_what_changed_is_within_what_was_declared(tmp_path: Path) -> None:
    report, *_ = fit(tmp_path, Frozen())
    frozen, *rest = report.record.changes
    assert (frozen.trainable, frozen.changed, frozen.share) == (False, False, 0.0)
    assert any(change.changed for change in rest)
    assert report.record.method.undeclared == []
    assert report.record.method.measured <= report.record.method.declared < 1


class Careless(SomebodysModule):
    """Changes in secret what it declares to leave alone."""

    def on_fit_start(self) -> None:
        next(self.parameters()).requires_grad = False

    def on_train_end(self) -> None:
        next(self.parameters()).data.add_(1.0)


def test_what_changed_without_being_declared_is_found(tmp_path: Path) -> None:
    report, *_ = fit(tmp_path, Careless())
    assert report.record.method.undeclared == [report.record.changes[0].tensor]


def test_every_attack_has_its_cost_at_each_look(plain: Any) -> None:
    report, *_ = plain
    costs = {(cost.attack, cost.subject): cost for cost in report.record.costs}
    assert set(costs) == {(a, s) for a in ("none", "int4", "relearn") for s in ("original", "unlearned")}
    assert {cost.looks for cost in costs.values()} == {1}
    assert all(cost.seconds > 0 for cost in costs.values())
    assert costs["int4", "unlearned"].losses == costs["none", "unlearned"].losses == 0
    assert costs["relearn", "unlearned"].losses == STEPS
    assert report.record.budget["steps"] == 6
    assert report.record.budget["attacks_s"] >= costs["relearn", "unlearned"].seconds


def test_several_looks_at_a_model_are_one_entry(tmp_path: Path) -> None:
    check = RecoveryCheck({"relearn": Relearn(steps=STEPS, lr=1e-1, mode="full")}, every_n_epochs=0, every_n_steps=2)
    report, *_ = fit(tmp_path, check=check)
    (cost,) = [cost for cost in report.record.costs if (cost.attack, cost.subject) == ("relearn", "unlearned")]
    assert (cost.looks, cost.losses) == (3, 3 * STEPS)
    assert (cost.rows, cost.tokens) == (3 * STEPS * 4, 0)  # in batches of four, which are no text


def test_looks_during_the_fit_say_when_each_example_was_forgotten(tmp_path: Path) -> None:
    """An oracle that looks for itself: the scores of each look, before a later one drops them."""
    seen: dict[int, list[float]] = {}

    class Watched(RecoveryCheck):
        def check(self, *given: Any) -> Any:
            values = super().check(*given)
            last = [o for o in self.observations if (o.metric, o.split, o.attacked) == ("probability", "forget", False)]
            seen.update({o.step: o.scores for o in last if o.scores})
            return values

    report, *_ = fit(tmp_path, check=Watched({}, every_n_epochs=0, every_n_steps=1), max_epochs=3)
    found = report.summary["over_time"]["forgetting"]
    assert found["times"] == sorted(seen) == list(range(10))
    first = {name: [seen[step][int(name)] for step in sorted(seen)] for name in map(str, range(len(seen[0])))}
    gone = {
        name: next((step for step, level in enumerate(levels) if level <= levels[0] / 2), None)
        for name, levels in first.items()
    }
    followed = {curve["entity"]: curve["forgotten_at"] for curve in found["curves"]}
    assert followed == {name: gone[name] for name in followed}
    assert any(step is not None for step in followed.values())
    assert "When it was forgotten" in (tmp_path / "report.html").read_text(encoding="utf-8")
    json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))


def test_a_checkpoint_still_knows_the_original(plain: Any) -> None:
    report, after, folder = plain
    state = torch.load(folder / "kept" / "step=6.ckpt", weights_only=False)["callbacks"]
    (own,) = [value for key, value in state.items() if key.startswith("RecoveryCheck")]
    check = RecoveryCheck(every_n_epochs=0)
    check.load_state_dict(own)
    assert [f"{each:016x}" for each in check.weights["original"]] == report.record.weights["original"]
    assert {change.changed for change in check._original_weights.changes(SomebodysModule())} == {False}
    assert check._original_weights.changes(after) == report.record.changes


class WandbLogger(Logger):
    """As that of W&B, as far as a report needs it: `experiment` is a run, which takes files."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[tuple[Any, ...]] = []

    name = version = "fake"
    id = "7"

    @property
    def experiment(self) -> Any:
        return self

    def log_metrics(self, metrics: Any, step: Any = None) -> None: ...

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...

    def log_artifact(self, artifact: Any) -> None:
        self.kept += [(Path(path).name, artifact.name) for path in artifact.paths if Path(path).read_bytes()]

    def log(self, values: dict[str, Any]) -> None:
        self.shown = values


class MLFlowLogger(WandbLogger):
    """As that of MLflow: `experiment` is a client, which is told the run."""

    run_id = "7"

    def log_artifact(self, run_id: str, local_path: str, artifact_path: str | None = None) -> None:  # type: ignore[override]
        assert run_id == self.run_id
        self.kept.append((Path(local_path).name, artifact_path))


class TensorBoardLogger(WandbLogger):
    """As that of TensorBoard: `experiment` is a writer of text."""

    def add_text(self, tag: str, text_string: str, global_step: int | None = None) -> None:
        self.kept.append((tag, text_string, global_step))

    def add_image(self, tag: str, image: Any, global_step: int | None = None, dataformats: str = "CHW") -> None:
        assert (image.ndim, dataformats) == (3, "HWC")
        self.kept.append((tag, global_step))

    def flush(self) -> None:
        self.kept.append(("flushed",))


class Artifact:
    """As that of W&B."""

    def __init__(self, name: str, type: str) -> None:
        assert name.replace("-", "").isalnum()
        self.name, self.paths = name, []

    def add_file(self, path: str) -> None:
        self.paths.append(path)


@pytest.fixture
def wandb_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the package offers, where it is not installed: `test_loggers.py` takes the real one."""
    shown = {"Html": lambda path: ("html", Path(path).name), "Image": lambda path: ("image", Path(path).name)}
    package = SimpleNamespace(__spec__=ModuleSpec("wandb", None), Artifact=Artifact, **shown)
    monkeypatch.setitem(sys.modules, "wandb", package)


FILES = ["report.html", "report.json", "scores.jsonl", "model_card.md", "curves.png"]


def test_each_logger_gets_what_it_can_keep(tmp_path: Path, wandb_package: None) -> None:
    wandb, mlflow, tensorboard = WandbLogger(), MLFlowLogger(), TensorBoardLogger()
    fit(tmp_path / "report", logger=[wandb, CSVLogger(tmp_path), mlflow, tensorboard])
    for logger in (wandb, mlflow):
        assert [file for file, _ in logger.kept] == FILES
        assert all("robustness-report" in where for _, where in logger.kept)
    assert wandb.shown["robustness-report/page"] == ("html", "report.html")
    assert wandb.shown["robustness-report/curves"] == ("image", "curves.png")
    (tag, text, step), plots, flushed = tensorboard.kept
    assert plots == ("robustness-report/curves", 6)
    assert (tag, step, flushed) == ("robustness-report", 6, ("flushed",))
    assert "| relearn | step" in text


class Broken(WandbLogger):
    """Has no network."""

    def log_artifact(self, *args: Any, **kwargs: Any) -> None:
        raise ConnectionError("no route to host")


Broken.__name__ = "WandbLogger"


def test_an_upload_that_fails_is_a_warning_and_others_go_on(tmp_path: Path, wandb_package: None) -> None:
    after = TensorBoardLogger()
    with pytest.warns(
        UserWarning, match="The report should reach `WandbLogger`. Found ConnectionError: no route to host"
    ):
        fit(tmp_path, logger=[Broken(), after])
    assert json.loads((tmp_path / "report.json").read_text())["record"]["weights"]
    assert after.kept


def test_loggers_get_nothing_if_they_should_not(tmp_path: Path) -> None:
    logger = WandbLogger()
    fit(tmp_path, logger=logger, to_loggers=False)
    assert logger.kept == []


def test_what_was_interrupted_is_not_sent(tmp_path: Path) -> None:
    class Ended(SomebodysModule):
        def on_train_epoch_end(self) -> None:
            raise RuntimeError("full")

    logger = WandbLogger()
    with pytest.raises(RuntimeError, match="full"):
        fit(tmp_path, Ended(), logger=logger)
    assert (tmp_path / "report.json").exists()
    assert logger.kept == []
