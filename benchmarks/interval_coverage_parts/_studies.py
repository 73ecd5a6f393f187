"""How often intervals hold the truth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from interval_coverage_parts._designs import Design, Floats
from lightning_unlearn.report.analysis._binary import share_interval
from lightning_unlearn.report.analysis._studentised import (
    drawn_entities,
    standard_error,
    studentised_interval,
    students_t,
)

Ends = tuple[Floats, Floats]
LARGE = 100_000  # rows that a truth is computed from


def ours(over: Floats, under: Floats, design: Design, draws: int) -> Ends:
    """As `Bootstrap` does it, for many studies at once; infinite where a ratio is called unbounded."""
    if design.is_share:
        low, high = np.array([share_interval(*study) for study in zip(over, under, strict=True)]).T
        return low, high
    low, high = studentised_interval(over, under, draws=draws)
    least, most = studentised_interval(under, np.ones_like(under), draws=draws)
    unbounded = (least <= 0) & (most >= 0) & design.divides
    return np.where(unbounded, -np.inf, low), np.where(unbounded, np.inf, high)


def percentile(over: Floats, under: Floats, design: Design, draws: int) -> Ends:
    table = drawn_entities(over.shape[-1], draws, 0).T
    low, high = np.quantile((over @ table) / (under @ table), [0.025, 0.975], axis=-1)
    return low, high


def student(over: Floats, under: Floats, design: Design, draws: int) -> Ends:
    value = over.sum(-1) / under.sum(-1)
    away = students_t(0.95, over.shape[-1] - 1) * standard_error(over - value[:, None] * under, under)
    return value - away, value + away


METHODS: dict[str, Callable[[Floats, Floats, Design, int], Ends]] = {
    "ours": ours,
    "t": student,
    "percentile": percentile,
}


def studied(
    design: Design, entities: int, rows: str, icc: float, studies: int, generator: np.random.Generator
) -> tuple[Floats, Floats]:
    """Numerators and denominators of many studies, ``[studies, entities]``.

    Rows are as many of each entity, ``"5"``, or any number of ``"1 to 20"``.
    """
    least, _, most = rows.partition(" to ")
    counts = generator.integers(int(least), int(most or least) + 1, studies * entities)
    place = np.repeat(np.arange(studies * entities), counts)
    particular = generator.normal(size=(studies * entities, 3))[place]
    totals = design.totals(design.scores(particular, icc, generator), place)
    return totals.over.reshape(studies, entities), totals.under.reshape(studies, entities)


def coverage(
    design: Design, entities: int, rows: str, icc: float, *, studies: int, draws: int, seed: int = 0
) -> dict[str, Any]:
    """The share of studies whose interval holds the truth about all entities, by method."""
    generator = np.random.default_rng(seed)
    truth = design.truth(generator.normal(size=(LARGE, 3)), icc, generator)
    over, under = studied(design, entities, rows, icc, studies, generator)
    found = {name: _held(method(over, under, design, draws), truth) for name, method in METHODS.items()}
    about = {"design": design.name, "entities": entities, "rows": rows, "icc": icc, "truth": round(truth, 4)}
    return {**about, **found}


def coverage_of_these(
    design: Design, entities: int, rows: int, icc: float, *, studies: int, draws: int, seed: int = 0
) -> dict[str, Any]:
    """With too few entities to resample, rows are: how often the interval holds the truth about these entities alone."""
    generator = np.random.default_rng(seed)
    held, unbounded = 0, 0
    for _ in range(studies):
        particular = generator.normal(size=(entities, 3))
        truth = design.truth(np.repeat(particular, 3000, axis=0), icc, generator)
        scores = design.scores(np.repeat(particular, rows, axis=0), icc, generator)
        totals = design.totals(scores, np.arange(len(scores)))
        low, high = ours(totals.over[None], totals.under[None], design, draws)
        held, unbounded = held + bool(low <= truth <= high), unbounded + bool(np.isinf(low))
    shares = {"held": held / studies, "unbounded": unbounded / studies}
    return {"design": design.name, "entities": entities, "rows": str(rows), "icc": icc, "ours": shares}


def _held(ends: Ends, truth: float) -> dict[str, float | None]:
    low, high = ends
    bounded = np.isfinite(low)
    return {
        "held": round(float(np.mean((low <= truth) & (truth <= high))), 4),
        "unbounded": round(float(np.mean(~bounded)), 4),
        "width": round(float(np.median((high - low)[bounded])), 4) if bounded.any() else None,
    }
