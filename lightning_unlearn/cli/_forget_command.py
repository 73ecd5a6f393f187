"""The command ``lightning-unlearn forget``: from a language model and two files to a model that forgot, and a report."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

from lightning_unlearn.cli._audit_command import Columns
from lightning_unlearn.cli._config_file import read_config
from lightning_unlearn.cli._quiet_fit import quiet_fit
from lightning_unlearn.cli._yaml import dump_yaml
from lightning_unlearn.data import FileRecords
from lightning_unlearn.data.encodings import usual_encoding
from lightning_unlearn.runtime import someone_looks_on, writable_folder, written_whole

_BASE = "bundled:your_model"
_PAGE = "report.html"
_ABOUT = (
    "Make a language model forget the questions and answers of one file and keep those of another, attack it, and write "
    "the report, the model and the configuration, which `lightning-unlearn fit --config` runs again. Further arguments "
    "are those of `lightning-unlearn fit`. For example: lightning-unlearn forget --model owner/model --forget forget.jsonl "
    "--retain retain.jsonl --columns.entity person"
)
_HEAD = """\
# Written by `lightning-unlearn forget`. Run it again, from the same folder, by
#   lightning-unlearn fit --config {file}
"""


def run_forget(arguments: Sequence[str]) -> None:
    """Run ``lightning-unlearn forget --model MODEL --forget FILE --retain FILE [arguments of fit]``."""
    chosen, further = _parser().parse_known_args(arguments)
    folder = writable_folder(chosen.folder)  # fail now, not after the fit
    before = _written(folder)
    said, settings = _settings(chosen)
    file = folder / "forget.yaml"
    with written_whole(file) as new:
        text = dump_yaml(settings, allow_unicode=True)
        new.write_text(_HEAD.format(file=file) + text, encoding="utf-8")
    sys.stdout.write(said)
    bar = f"--trainer.enable_progress_bar={someone_looks_on()}".lower()  # else a line a minute says as much
    quiet_fit("--config", str(file), bar, *further)
    is_new = _written(folder) != before  # not with `--report=null`, or a folder of its own
    sys.stdout.write((f"\nOpen {(folder / _PAGE).resolve()}\n" if is_new else "\n") + _closing(chosen, folder))


def _written(folder: Path) -> int:
    """When its page was, in nanoseconds; 0 if there is none."""
    page = folder / _PAGE
    return page.stat().st_mtime_ns if page.exists() else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("lightning-unlearn forget", description=_ABOUT, allow_abbrev=False)
    add = parser.add_argument
    add("--model", required=True, help="a Hugging Face folder or a hub id")
    add("--forget", required=True, help="what must go: a file of questions and answers, such as JSON lines or CSV")
    add("--retain", required=True, help="what must stay, likewise; best what is near to it")
    add("--columns.entity", metavar="FIELD", help="which field says whom or what a row is about")
    add("--columns.question", metavar="FIELD", help="which holds the question, if it has no usual name")
    add("--columns.answer", metavar="FIELD", help="which holds the answer, likewise")
    add("--control", help="a model that never knew, as --model: what an attack teaches it is taken off what came back")
    add("--all-weights", action="store_true", help="train them all, not LoRA alone; so do the attackers")
    add("--steps", type=_steps, default=300, help="of training (300)")
    add("--folder", default="runs/forgotten", help="for the report, the model and the configuration (runs/forgotten)")
    return parser


def _steps(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"should be a whole number of at least 1, found {text!r}")
    return int(text)


def _settings(chosen: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """What is said before the fit, and the configuration."""
    columns = {name: value for name in vars(Columns()) if (value := getattr(chosen, f"columns.{name}")) is not None}
    if (entity := columns.get("entity", "")).isdecimal():
        columns["entity"] = int(entity)  # so many rows in turn
    template = usual_encoding(chosen.model).template
    data, lines = {}, []
    for part, does in (("forget", "must go"), ("retain", "must stay")):
        records = {"path": getattr(chosen, part), **columns}
        rows = FileRecords(**records).questions()
        entities = f", about {len({row.entity for row in rows})} entities" if "entity" in columns else ""
        lines.append(f"{len(rows)} questions {does}{entities}.")
        data[part] = {"records": records, "encoding": {"tokenizer": chosen.model, "template": template}}
    if template == "plain":
        lines.append(
            f"The tokenizer of {chosen.model} has no chat template, so rows are asked as `Question: ...`, and on the next "
            "line `Answer:`. If the model was trained on another form, give its tokenizer a `chat_template` that writes it."
        )
    settings: dict[str, Any] = {
        "base": _BASE,
        "model": {"network": {"path_or_id": chosen.model}},
        "data": data,
        "report": {"folder": chosen.folder},
        "trainer": {"max_epochs": -1, "max_steps": chosen.steps, "callbacks": _callbacks(chosen.folder)},
    }
    if chosen.control is not None:
        settings["recovery"] = {"control": chosen.control}
    if chosen.all_weights:
        settings["model"]["network"]["lora"] = None
        settings["unlearn"] = {"under": {"relearn": {"mode": "full"}}}
        settings.setdefault("recovery", {})["attacks"] = {"relearn": {"mode": "full"}}
    return "\n".join([*lines, ""]), settings


def _callbacks(folder: str) -> list[dict[str, Any]]:
    """Those of the base, with the model in this folder."""
    callbacks: list[dict[str, Any]] = read_config(_BASE)["trainer"]["callbacks"]
    for callback in callbacks:
        if callback["class_path"].endswith("SavePretrained"):
            callback["init_args"]["folder"] = str(Path(folder) / "model")
    return callbacks


def _closing(chosen: argparse.Namespace, folder: Path) -> str:
    audit = ["--model", str(folder / "model"), "--original", chosen.model]
    audit += [] if chosen.control is None else ["--control", chosen.control]
    for name in ("forget", "retain", *(f"columns.{name}" for name in vars(Columns()))):
        value = getattr(chosen, name)
        audit += [] if value is None else [f"--{name}", value]
    again = shlex.join(["lightning-unlearn", "audit", *audit, "--preset", "quick", "--folder", str(folder / "audit")])
    return (
        f"The model is in {folder / 'model'}, what made it in {folder / 'forget.yaml'}.\n"
        f"Not what you want? What to change: {_documentation()}/forget-a-fact-in-your-own-model.md#read-the-report\n"
        f"Attack what was written, with more attacks, as a reviewer would:\n  {again}\n"
    )


def _documentation() -> str:
    urls: list[str] = metadata("lightning-unlearn").get_all("Project-URL") or []
    return next(url.partition(", ")[2] for url in urls if url.startswith("Documentation"))
