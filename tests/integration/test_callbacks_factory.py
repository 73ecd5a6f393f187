"""Lightning's entry point for callbacks: this package puts nothing into other people's trainers; theirs can, as told."""

from __future__ import annotations

from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from _modules import SomebodysModule, loader, quiet
from _other_loops import bounded, hugging_face, network
from _pages import blocks

from lightning_unlearn import ForgetRetainData, RecoveryCheck, Unlearn

GROUP = "lightning.pytorch.callbacks_factory"
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "other-loops.md"


def test_nothing_of_ours_is_registered() -> None:
    groups = {entry.group for entry in distribution("lightning-unlearn").entry_points}
    assert groups == {"console_scripts"}


def test_a_trainer_that_was_not_asked_has_nothing_of_ours() -> None:
    modules = {
        type(callback).__module__.split(".")[0] for callback in pl.Trainer(accelerator="cpu", logger=False).callbacks
    }  # type: ignore[attr-defined]
    assert modules == {"lightning"}


@pytest.fixture
def your_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installed as pip would, with the lines that the documentation shows."""
    shown = [text for _, text in blocks(PAGE.read_text())]
    (code,) = (text for text in shown if text.startswith("# your_package.py\n"))
    (lines,) = (text for text in shown if text.startswith("[project.entry-points."))
    (tmp_path / "your_package.py").write_text(code)
    info = tmp_path / "your_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: your-package\nVersion: 1.0\n")
    # As a build backend writes it.
    (info / "entry_points.txt").write_text(
        lines.replace('[project.entry-points."', "[").replace('"]', "]").replace('"', "")
    )
    monkeypatch.syspath_prepend(str(tmp_path))


def test_a_package_of_yours_can_register_them(your_package: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not quiet().callbacks  # type: ignore[attr-defined]
    monkeypatch.setenv("AUDIT", "1")
    trainer = quiet(max_steps=2)
    (check,) = trainer.callbacks  # type: ignore[attr-defined]
    assert isinstance(check, RecoveryCheck)
    trainer.fit(SomebodysModule(), datamodule=ForgetRetainData(retain=loader(seed=1), forget=loader(seed=2)))
    assert {o.attack for o in check.observations} == {"none", "int4"}


def test_what_is_registered_is_not_put_into_other_loops(your_package: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """There, those count that were given."""
    monkeypatch.setenv("AUDIT", "1")
    unlearn = Unlearn(bounded())
    trainer = hugging_face(network(), [unlearn], max_steps=1)
    seen: list[Any] = []
    unlearn.on_train_end = lambda inner, module: seen.extend(inner.callbacks)  # type: ignore[method-assign]
    trainer.train()
    assert seen == [unlearn]


def test_the_entry_point_is_lightnings() -> None:
    """If Lightning gave it up, the page would tell of something that is not there."""
    source = Path(pl.trainer.connectors.callback_connector.__file__).read_text()
    assert f'_load_external_callbacks("{GROUP}")' in source
