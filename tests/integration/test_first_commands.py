"""What a stranger types first: help and what it suggests, the versions, the demo; and where nothing can be written."""

from __future__ import annotations

import errno
import logging
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from lightning_utilities.core import rank_zero

import lightning_unlearn
import lightning_unlearn_command
from lightning_unlearn import WriteReport
from lightning_unlearn.cli import UnlearnCLI, script
from lightning_unlearn.cli._without_tips import _is_no_tip, without_tips

COMMANDS = re.findall(r"^  (lightning-unlearn .+)$", lightning_unlearn_command.answer([]) or "", flags=re.MULTILINE)
QUICK = ["--trainer.fast_dev_run=1", "--trainer.accelerator=cpu", "--finetune_first.epochs=1", "--recovery=null"]


@pytest.fixture(autouse=True)
def _empty_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])


def typed(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["lightning-unlearn", *arguments])


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, UnlearnCLI]]:
    """The fits that would have been run, whole command lines, model and trainer built."""
    found: list[tuple[str, UnlearnCLI]] = []
    monkeypatch.setattr(UnlearnCLI, "_run_subcommand", lambda self, subcommand: found.append((subcommand, self)))
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_what_help_suggests_works_in_an_empty_folder(
    command: str,
    fits: list[tuple[str, UnlearnCLI]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    typed(monkeypatch, *shlex.split(command)[1:])
    script()
    assert [name for name, _ in fits] == ([] if "configs" in command else ["fit"])
    assert fits or "base: bundled:base" in capsys.readouterr().out


def test_help_suggests_the_demo_and_tells_of_every_command() -> None:
    from lightning_unlearn.cli._script import _OWN_COMMANDS

    told = lightning_unlearn_command.answer(["--help"]) or ""
    assert "lightning-unlearn demo" in COMMANDS
    for name in [*_OWN_COMMANDS, *UnlearnCLI.subcommands()]:
        assert re.search(rf"^  {name}  ", told, flags=re.MULTILINE), name


@pytest.mark.parametrize("start", [script, lightning_unlearn_command.script])
@pytest.mark.parametrize(("arguments", "found"), [((), "to begin with"), (("--version",), "lightning-unlearn")])
def test_nothing_and_version_are_answered_both_ways_in(
    start: Any,
    arguments: tuple[str, ...],
    found: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    typed(monkeypatch, *arguments)
    with pytest.raises(SystemExit, match="0"):
        start()
    assert found in capsys.readouterr().out


def test_whatever_it_cannot_answer_itself_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    typed(monkeypatch, "configs", "nothing_of_that_name")
    with pytest.raises(SystemExit, match="nothing_of_that_name"):
        lightning_unlearn_command.script()


def test_version_names_ours_and_those_that_matter() -> None:
    told = lightning_unlearn_command.answer(["--version"]) or ""
    assert told.startswith("lightning-unlearn ")
    assert all(f"{name} " in told for name in ("Python", "torch", "lightning", "transformers", "peft"))
    assert lightning_unlearn.__version__ in told


def test_the_demo_is_the_quickstart_in_a_folder_of_choice(
    fits: list[tuple[str, UnlearnCLI]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed(monkeypatch, "demo", "--folder", "here", "--unlearn.objective.beta=0.7")
    script()
    ((_, cli),) = fits
    (report,) = (callback for callback in cli.trainer.callbacks if isinstance(callback, WriteReport))
    assert (Path(report.folder), Path(cli.trainer.loggers[0].save_dir)) == (Path("here"), Path("here"))
    assert cli.config["fit"]["unlearn"]["init_args"]["objective"]["init_args"]["beta"] == 0.7
    assert f"Open {Path('here/report.html').resolve()}" in capsys.readouterr().out


def read_only(*_: Any, **__: Any) -> None:
    raise OSError(errno.EROFS, "Read-only file system", "runs")


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What reaches the handler of Lightning's log."""
    told: list[str] = []
    handler, logger = logging.Handler(), logging.getLogger("lightning.pytorch")
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    # It goes to the package that was imported last.
    monkeypatch.setattr(rank_zero, "log", logging.getLogger("lightning.pytorch.utilities.rank_zero"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield told
    logger.removeHandler(handler)


TIPS = ("GPU available", "Tip")


def test_the_demo_is_without_the_tips_of_lightning_and_nothing_else_is(
    fits: list[tuple[str, UnlearnCLI]], monkeypatch: pytest.MonkeyPatch, log: list[str]
) -> None:
    typed(monkeypatch, "demo")
    script()
    assert not [line for line in log if any(tip in line for tip in TIPS)]
    typed(monkeypatch, "fit", "--config", "bundled:quickstart")
    script()
    assert [tip for tip in TIPS if not any(tip in line for line in log)] == []


def test_without_tips_there_are_still_our_own_lines_and_every_warning(log: list[str]) -> None:
    with without_tips():
        rank_zero.rank_zero_info("ours")
        logging.getLogger("lightning.pytorch.trainer").warning("theirs")
        with pytest.warns(UserWarning, match="to be heeded"):
            rank_zero.rank_zero_warn("to be heeded")
    assert log == ["ours", "theirs"]


def test_what_is_installed_beside_lightning_is_not_lightning() -> None:
    """`lightning_unlearn`, in one folder with `lightning`."""
    folder = Path(pl.__file__).parents[1]
    for path, is_kept in ((folder / "a.py", False), (folder.parent / "lightning_unlearn" / "a.py", True)):
        record = logging.LogRecord("lightning.pytorch", logging.INFO, str(path), 1, "words", None, None)
        assert _is_no_tip(record) == is_kept


@pytest.mark.slow
def test_the_demo_shows_the_model_once_and_what_it_teaches_in_two_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], log: list[str]
) -> None:
    typed(monkeypatch, "demo", *QUICK, "--report=null")
    script()
    out = capsys.readouterr().out
    assert out.count("LlamaForCausalLM") == 1
    assert len([line for line in log if "FinetuneFirst" in line]) == 2  # the model, and the control


def test_the_demo_in_a_folder_that_cannot_be_written_names_its_setting(
    fits: list[tuple[str, UnlearnCLI]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "mkdir", read_only)
    typed(monkeypatch, "demo")
    with pytest.raises(SystemExit, match=r"Found `runs`: Read-only file system\. For the demo set `--folder=FOLDER`"):
        script()
    assert fits == []  # before anything is taught


def test_a_log_that_cannot_be_written_is_one_message_with_every_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pl.Trainer, "fit", read_only)
    typed(monkeypatch, "fit", "--config", "bundled:npo", *QUICK)
    with pytest.raises(SystemExit) as raised:
        script()
    message = str(raised.value.code)
    assert len(message.splitlines()) == 2
    settings = ("--report.folder", "--trainer.logger.init_args.save_dir", "--trainer.default_root_dir", "HF_HOME")
    assert all(setting in message for setting in (*settings, "LIGHTNING_UNLEARN_CACHE", "MPLCONFIGDIR"))


def test_a_cache_that_cannot_be_written_names_its_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from lightning_unlearn.models._gguf import converted_gguf

    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.raises(OSError, match=r"can be written.*`LIGHTNING_UNLEARN_CACHE`"):
        converted_gguf(file, str(tmp_path / "cache"))
