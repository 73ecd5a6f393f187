"""The command ``lightning-unlearn lint``: look over a request for forgetting before anything is trained."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_unlearn.cli._audit_command import Columns
from lightning_unlearn.cli._config_file import ConfigFile
from lightning_unlearn.cli._parser import Parser
from lightning_unlearn.data import FileRecords, Finding, Linter, Records, lint_page
from lightning_unlearn.runtime import writable_folder, written_whole

_ABOUT = (
    "Look over what must go beside what must stay: rows in both, near duplicates, contradictions, poisoned wording, sizes "
    "at which methods fail. For example: lightning-unlearn lint --forget forget.jsonl --retain retain.jsonl "
    "--columns.entity author. No model is run. It exits with 1 if there are findings."
)


def run_lint(arguments: Sequence[str]) -> None:
    """Run ``lightning-unlearn lint``."""
    parser = Parser(prog="lightning-unlearn lint", description=_ABOUT)
    parser.add_argument("-c", "--config", action=ConfigFile, help="A file with these arguments, as YAML.")
    parser.add_argument("--forget", type=str | Records, required=True, help="What must go: a file, or records.")
    parser.add_argument("--retain", type=str | Records, required=True, help="What must stay, likewise.")
    parser.add_argument("--folder", type=str | None, help="Write lint.md and lint.json there.")
    parser.add_class_arguments(Columns, "columns")
    parser.add_class_arguments(Linter, "linter", skip={"strict"})
    chosen: Any = parser.instantiate(parser.parse_args(arguments))
    forget, retain = (_records(chosen[name], chosen.columns).questions() for name in ("forget", "retain"))
    findings = chosen.linter(forget, retain)
    sys.stdout.write(f"{lint_page(findings)}\n")
    if chosen.folder is not None:
        _write(findings, writable_folder(chosen.folder))
    if findings:
        sys.exit(1)


def _records(source: str | Records, columns: Columns) -> Records:
    return FileRecords(source, **vars(columns)) if isinstance(source, str) else source


def _write(findings: Sequence[Finding], folder: Path) -> None:
    page = lint_page(findings, most=sys.maxsize)
    whole = json.dumps([finding.as_dict() for finding in findings], indent=2, ensure_ascii=False)
    for name, text in (("lint.md", f"# Findings\n\n{page}\n"), ("lint.json", f"{whole}\n")):
        with written_whole(folder / name) as new:
            new.write_text(text, encoding="utf-8")
