"""The command ``lightning-unlearn compare``: several reports in one table, and the front between forgetting and keeping."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from lightning_unlearn.report import (
    Comparison,
    RobustnessReport,
    compare,
    compare_requests,
    print_comparison,
    save_comparison,
)

_ABOUT = (
    "Compare reports: what each model keeps, what comes back of what it forgot, and which of them no other beats in both. "
    "Reports of other questions are not compared with each other. Runs of one recipe with several seeds go under one name: "
    "npo=runs/npo-0,runs/npo-1,runs/npo-2."
)
_BRACKET = (
    "a report of a model that was trained in another way, as a point of reference, such as joint=runs/joint and "
    "sequential=runs/sequential; can be given several times"
)
_REQUESTS = "each report is of something else that was forgotten: show what each took with it, over all splits"


def run_compare(arguments: Sequence[str]) -> None:
    """Run ``lightning-unlearn compare REPORT REPORT ... [--bracket NAME=REPORT] [--requests] [--folder FOLDER]``."""
    parser = argparse.ArgumentParser("lightning-unlearn compare", description=_ABOUT)
    parser.add_argument(
        "reports", nargs="+", help="a report.json or a folder with one; with a name of its own: name=FOLDER"
    )
    parser.add_argument("--bracket", action="append", default=[], metavar="NAME=REPORT", help=_BRACKET)
    parser.add_argument("--requests", action="store_true", help=_REQUESTS)
    parser.add_argument("--folder", help="write comparison.html, .json and .md there, and front.png")
    chosen = parser.parse_args(arguments)
    if chosen.requests and chosen.bracket:
        parser.error("--bracket goes with reports of the same questions: leave out --requests")
    recipes = _named(chosen.reports)
    found = (
        compare_requests(_single(recipes)) if chosen.requests else _compared(recipes, _single(_named(chosen.bracket)))
    )
    print_comparison(found, Console())
    if chosen.folder:
        save_comparison(found, chosen.folder)


def _compared(recipes: Mapping[str, list[str]], brackets: Mapping[str, RobustnessReport]) -> Comparison:
    runs = {recipe: dict(_runs(recipe, paths)) for recipe, paths in recipes.items()}
    reports = {name: RobustnessReport.load(path) for each in runs.values() for name, path in each.items()}
    several = {recipe: list(each) for recipe, each in runs.items() if len(each) > 1}
    return compare(reports, recipes=several, brackets=brackets)


def _runs(recipe: str, paths: Sequence[str]) -> Iterator[tuple[str, str]]:
    for number, path in enumerate(paths, start=1):
        yield (recipe if len(paths) == 1 else f"{recipe} {number}"), path


def _named(given: Sequence[str]) -> dict[str, list[str]]:
    """The paths of each report, by the name that stands before ``=``, or else that of its folder."""
    found: dict[str, list[str]] = {}
    for each in given:
        name, is_named, paths = ("", "", each) if Path(each).exists() else each.rpartition("=")
        name = name if is_named else _name(paths)
        if name in found:
            raise ValueError(
                f"Each report should have a name of its own. Found `{name}` twice. Give them names: one={found[name][0]} "
                f"other={paths}; or, if they are runs of one recipe, {name}={found[name][0]},{paths}."
            )
        found[name] = paths.split(",") if is_named else [paths]
    return found


def _single(named: Mapping[str, list[str]]) -> dict[str, RobustnessReport]:
    if many := [name for name, paths in named.items() if len(paths) > 1]:
        raise ValueError(f"One report should stand under each name here. Found several under `{'`, `'.join(many)}`.")
    return {name: RobustnessReport.load(paths[0]) for name, paths in named.items()}


def _name(path: str) -> str:
    file = Path(path)
    return file.parent.name or file.stem if file.name == "report.json" else file.name
