"""What layers know, as tables whose cells are coloured: they are read aloud, printed, and follow the reader's theme."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_unlearn.observation import Change, Observation, strength
from lightning_unlearn.report.schema import RobustnessReport
from lightning_unlearn.report.schema._words import grouped, name, number, percent

DARKEST = 48
"""Percent of colour in the fullest cell: more, and the number in it could not be read."""


COLUMNS = 6
"""The most columns of numbers beside each other: more, and paper would cut them off, or their heads inside of words."""


MOST = 24
"""Layers that are shown at once: of more, those with the most colour, and all on demand."""


@dataclass(frozen=True)
class HeatCell:
    """One number.

    Args:
        words: The number.
        heat: Percent of colour behind it, 0 to :data:`DARKEST`.
    """

    words: str = "-"
    heat: float = 0.0


@dataclass(frozen=True)
class HeatMap:
    """One table.

    Args:
        title: What it shows.
        columns: Names of the columns behind the layer.
        rows: For each layer its cells, from the input to the output.
    """

    title: str
    columns: list[str]
    rows: dict[str, list[HeatCell]]

    def parts(self) -> list[HeatMap]:
        """The same in tables that fit on paper, one below the other, with the rows of each."""
        count = len(self.columns)
        if count <= COLUMNS:
            return [self]
        return [self._part(start, min(start + COLUMNS, count)) for start in range(0, count, COLUMNS)]

    @property
    def is_long(self) -> bool:
        """Whether it would fill pages of paper: it is on the screen alone then, and in the files beside the page."""
        return len(self.rows) * len(self.columns) > MOST * COLUMNS

    def leading(self) -> HeatMap | None:
        """Those layers of too many to read in which any model has the largest values; ``None`` if there are few."""
        if len(self.rows) <= MOST:
            return None
        hottest = sorted(self.rows, key=lambda layer: -max(cell.heat for cell in self.rows[layer]))[: MOST // 2]
        rows = {layer: cells for layer, cells in self.rows.items() if layer in hottest}
        return HeatMap(f"{self.title}: the {len(rows)} of {len(self.rows)} with the largest values", self.columns, rows)

    def _part(self, start: int, stop: int) -> HeatMap:
        title = f"{self.title}, columns {start + 1} to {stop} of {len(self.columns)}"
        rows = {layer: cells[start:stop] for layer, cells in self.rows.items()}
        return HeatMap(title, self.columns[start:stop], rows)


def heat_maps(report: RobustnessReport) -> list[HeatMap]:
    """A map for each metric and split that was observed at layers: the models, each at its last look, and attacks."""
    inside = [o for o in report.observations if o.layer]
    kinds = dict.fromkeys((o.metric, o.split) for o in inside)
    return [
        _map(metric, split, [o for o in inside if (o.metric, o.split) == (metric, split)]) for metric, split in kinds
    ]


def change_map(changes: Sequence[Change]) -> HeatMap | None:
    """How much of each layer was changed; None if nobody looked."""
    layers = dict.fromkeys(change.layer for change in changes)
    rows = {layer: _changed([change for change in changes if change.layer == layer]) for layer in layers}
    columns = ["weights", "might change", "changed", "by"]
    return HeatMap("Share of the weights of each layer that changed", columns, rows) if rows else None


def _map(metric: str, split: str, observations: Sequence[Observation]) -> HeatMap:
    # Of several looks at the same, the later one counts.
    cells = {(o.layer, _who(o)): o for o in observations}
    layers, models = dict.fromkeys(layer for layer, _ in cells), dict.fromkeys(who for _, who in cells)
    low, high = _range(list(cells.values()))
    rows = {layer: [_cell(cells.get((layer, who)), low, high) for who in models] for layer in layers}
    return HeatMap(f"{name(metric)} of the {split} set, by layer", list(models), rows)


def _who(o: Observation) -> str:
    return f"{o.subject}, {o.attack} at {strength(o.point, o.unit)}" if o.attacked else o.subject


def _range(observations: Sequence[Observation]) -> tuple[float, float]:
    values = [o.value for o in observations if math.isfinite(o.value)]
    known = observations[0].bounds
    return known if known is not None else (min(values, default=0.0), max(values, default=0.0))


def _cell(o: Observation | None, low: float, high: float) -> HeatCell:
    if o is None or not math.isfinite(o.value):
        return HeatCell()
    share = (o.value - low) / (high - low) if high > low else 0.0
    return HeatCell(number(o.value), round(DARKEST * min(max(share, 0.0), 1.0), 1))


def _changed(changes: Sequence[Change]) -> list[HeatCell]:
    elements = sum(change.elements for change in changes)
    trainable = sum(change.elements for change in changes if change.trainable) / max(1, elements)
    share = sum(change.elements * change.share for change in changes if change.changed) / max(1, elements)
    lengths = [change.relative for change in changes if change.relative is not None]
    by = f"up to {max(lengths):.2g} of its length" if any(lengths) else "-"
    little = any(change.changed for change in changes) and share < 0.0005
    shown = "some, under 0.1 %" if little else percent(share, digits=1)
    return [
        HeatCell(grouped(elements)),
        HeatCell(percent(trainable)),
        HeatCell(shown, round(DARKEST * share, 1)),
        HeatCell(by),
    ]
