"""The command ``lightning-unlearn compare``: several reports in one table, and the front between forgetting and keeping."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from lightning_unlearn.report import RobustnessReport, compare, print_comparison, save_comparison

_ABOUT = (
    "Compare reports: what each model keeps, what comes back of what it forgot, and which of them no other beats in both. "
    "Reports of other questions are not compared with each other."
)


def run_compare(arguments: Sequence[str]) -> None:
    """Run ``lightning-unlearn compare REPORT REPORT ... [--folder FOLDER]``."""
    parser = argparse.ArgumentParser("lightning-unlearn compare", description=_ABOUT)
    parser.add_argument("reports", nargs="+", help="a report.json, or a folder with one")
    parser.add_argument("--folder", help="write comparison.json, comparison.md and front.png there")
    chosen = parser.parse_args(arguments)
    comparison = compare({_name(path): RobustnessReport.load(path) for path in chosen.reports})
    print_comparison(comparison, Console())
    if chosen.folder:
        save_comparison(comparison, chosen.folder)


def _name(path: str) -> str:
    file = Path(path)
    return file.parent.name or file.stem if file.name == "report.json" else file.name
