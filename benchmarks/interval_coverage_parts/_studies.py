"""How often intervals hold the truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from interval_coverage_parts._designs import Design
from lightning_unlearn.report.analysis._binary import share_interval
from lightning_unlearn.report.analysis._bootstrap import MIN_ENTITIES, Bootstrap
from lightning_unlearn.report.analysis._studentised import drawn_entities, standard_error
from lightning_unlearn.report.analysis._totals import Totals
from lightning_unlearn.report.schema import Interval

Ends = tuple[float, float]
LARGE = 400_000  # rows that a truth is computed from
ANYWHERE = (-np.inf, np.inf)


def rows_of(rows: str, entities: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """The entity of each row: ``"5"`` of each, or any number of ``"1 to 20"``."""
    least, _, most = rows.partition(" to ")
    counts = generator.integers(int(least), int(most or least) + 1, entities)
    return np.repeat(np.arange(entities), counts)


def ours(totals: Totals, design: Design, draws: int) -> Ends:
    if design.is_share:
        return share_interval(totals.over, totals.under)
    found = Bootstrap(draws).of_totals(totals, Interval(0.0))
    return ANYWHERE if found.low is None or found.high is None else (found.low, found.high)


def percentile(totals: Totals, design: Design, draws: int) -> Ends:
    table = drawn_entities(len(totals.over), draws, 0)
    low, high = np.quantile(table @ totals.over / (table @ totals.under), [0.025, 0.975])
    return float(low), float(high)


def students_t(totals: Totals, design: Design, draws: int) -> Ends:
    value = totals.over.sum() / totals.under.sum()
    error = standard_error(totals.over - value * totals.under, totals.under)
    away = stats.t.ppf(0.975, len(totals.over) - 1) * error
    return value - away, value + away


METHODS: dict[str, Callable[[Totals, Design, int], Ends]] = {"ours": ours, "t": students_t, "percentile": percentile}


def coverage(
    design: Design, entities: int, rows: str, icc: float, *, studies: int, draws: int, seed: int = 0
) -> dict[str, Any]:
    """The share of studies whose interval holds the truth about all entities, by method."""
    generator = np.random.default_rng(seed)
    truth = design.truth(generator.normal(size=(LARGE, 3)), icc, generator)
    found = [
        {name: method(totals, design, draws) for name, method in METHODS.items()}
        for totals in _studies(design, entities, rows, icc, studies, generator)
    ]
    return {
        "design": design.name,
        "entities": entities,
        "rows": rows,
        "icc": icc,
        "truth": round(truth, 4),
        **{name: _held([each[name] for each in found], truth) for name in METHODS},
    }


def coverage_of_these(
    design: Design, entities: int, rows: int, icc: float, *, studies: int, draws: int, seed: int = 0
) -> dict[str, Any]:
    """With too few entities to resample, rows are: how often the interval holds the truth about these entities alone."""
    assert entities < MIN_ENTITIES
    generator = np.random.default_rng(seed)
    held, anywhere = 0, 0
    for _ in range(studies):
        particular = generator.normal(size=(entities, 3))
        truth = design.truth(np.repeat(particular, 3000, axis=0), icc, generator)
        scores = design.scores(np.repeat(particular, rows, axis=0), icc, generator)
        low, high = ours(design.totals(scores, np.arange(len(scores))), design, draws)
        held, anywhere = held + (low <= truth <= high), anywhere + np.isinf(low)
    shares = {"held": held / studies, "unbounded": float(anywhere / studies)}
    return {"design": design.name, "entities": entities, "rows": str(rows), "icc": icc, "ours": shares}


def _studies(
    design: Design, entities: int, rows: str, icc: float, studies: int, generator: np.random.Generator
) -> Iterator[Totals]:
    for _ in range(studies):
        entity = rows_of(rows, entities, generator)
        particular = generator.normal(size=(entities, 3))[entity]
        yield design.totals(design.scores(particular, icc, generator), entity)


def _held(intervals: list[Ends], truth: float) -> dict[str, float]:
    low, high = np.array(intervals).T
    bounded = np.isfinite(low)
    width = float(np.median((high - low)[bounded])) if bounded.any() else float("inf")
    return {
        "held": float(np.mean((low <= truth) & (truth <= high))),
        "unbounded": float(np.mean(~bounded)),
        "width": round(width, 4) if np.isfinite(width) else None,
    }
