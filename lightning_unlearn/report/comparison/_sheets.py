"""A comparison as tables of words, the same in the terminal, in Markdown and on the page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lightning_unlearn.functional.text import visible
from lightning_unlearn.observation import strength
from lightning_unlearn.report.analysis import AcrossSeeds
from lightning_unlearn.report.comparison._compare import Compared, Comparison
from lightning_unlearn.report.comparison._requests import Requests
from lightning_unlearn.report.schema._words import level_words, name, number, percent, recovery_words


@dataclass(frozen=True)
class Sheet:
    """A table.

    Args:
        title: What it shows.
        columns: Their heads.
        rows: Cells; the first is the head of its row.
        note: How it is to be read.
    """

    title: str
    columns: list[str]
    rows: list[list[str]]
    note: str


def sheets_of(found: Comparison | Requests) -> list[Sheet]:
    """The tables of a comparison; one that would be empty is left out."""
    made = [_matrix(found)] if isinstance(found, Requests) else [_models(found), _seeds(found), _brackets(found)]
    return [sheet for sheet in made if sheet.rows]


def _models(comparison: Comparison) -> Sheet:
    columns = ["model", "forget set", "kept", "an adversary brings back", "a deployment brings back", "front"]
    title = f"By {name(comparison.metric)}, worst case over {len(comparison.attacks)} attacks and points in common"
    return Sheet(
        title,
        columns,
        [_cells(row) for row in comparison.rows],
        "front: no other of these keeps as much and gives back as little.",
    )


def _cells(row: Compared) -> list[str]:
    worst, deployed = (
        "not shown" if interval is None else f"{recovery_words(interval)} ({visible(where)})"
        for interval, where in ((row.worst, row.worst_attack), (row.deployed, row.deployed_attack))
    )
    kept = "-" if row.kept is None else percent(row.kept)
    return [visible(row.name), level_words(row.forgotten), kept, worst, deployed, "yes" if row.on_front else "no"]


def _seeds(comparison: Comparison) -> Sheet:
    columns = ["recipe", "attack", "brings back", "in single runs", "passes its gates"]
    rows = [_over_seeds(recipe, row) for recipe, found in comparison.seeds.items() for row in _worst_points(found)]
    note = (
        "Intervals, from five entities on, are over seeds and entities. Of each attack, the point at which most came back "
        "on average."
    )
    return Sheet("Over seeds", columns, rows, note)


def _worst_points(found: Sequence[AcrossSeeds]) -> Iterator[AcrossSeeds]:
    for attack in dict.fromkeys(row.attack for row in found):
        yield max((row for row in found if row.attack == attack), key=lambda row: row.recovery.value)


def _over_seeds(recipe: str, row: AcrossSeeds) -> list[str]:
    runs = f"{percent(min(row.runs))} to {percent(max(row.runs))}"
    where = f"{visible(row.attack)}, {strength(row.point, row.unit)}"
    return [visible(recipe), where, recovery_words(row.recovery), runs, f"{row.verdicts} of {len(row.runs)} runs"]


def _brackets(comparison: Comparison) -> Sheet:
    every = [bracket for found in comparison.brackets.values() for bracket in found]
    points = list(dict.fromkeys(point for bracket in every for point in bracket.references))
    rows = [
        [
            visible(model),
            visible(b.split),
            number(b.value),
            *(number(b.references.get(p)) for p in points),
            _place(b.place),
        ]
        for model, found in comparison.brackets.items()
        for b in found
    ]
    title = f"Between other ways of training, by {name(comparison.metric)}"
    note = "place: 0 % as training on one after the other without care for the old, 100 % as training on all at once."
    return Sheet(title, ["model", "split", "this model", *map(visible, points), "place"], rows, note)


def _matrix(requests: Requests) -> Sheet:
    matrix = requests.matrix
    rows = [[visible(n), *map(_place, row)] for n, row in zip(matrix.requests, matrix.ratios, strict=True)]
    title = f"What each request took with it, by {name(requests.metric)}"
    note = "Of what the original knew beyond a model that never did: 0 % nothing was lost, 100 % all. -: not known."
    return Sheet(title, ["what was forgotten", *map(visible, matrix.splits)], rows, note)


def _place(share: float | None) -> str:
    return "-" if share is None else percent(share)
