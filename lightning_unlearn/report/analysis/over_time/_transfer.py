"""What else was lost with what had to go: by split and by entity, and over several requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lightning_unlearn.observation import Observation, Subject

LEAST_KNOWN = 0.05
"""How far the original must be ahead of who never knew, in units of the metric: else a share of it would be noise."""


@dataclass(frozen=True)
class Transfer:
    """How far one split, or one entity of it, fell with the forget set.

    Args:
        split: The split.
        entity: The entity; empty for the whole split.
        original: Level of the original.
        unlearned: Level of the last model.
        floor: Level of the control, or what was given; ``None`` if neither.
        forget_ratio: ``(original - unlearned) / (original - floor)``: 0 for nothing lost, 1 for all that was known. ``None``
            if there is no floor, or the original was not ahead of it by at least ``LEAST_KNOWN``.
        n: Number of examples.
    """

    split: str
    entity: str
    original: float
    unlearned: float
    floor: float | None
    forget_ratio: float | None
    n: int


def transfer(observations: Sequence[Observation], metric: str, floor: float | None = None) -> list[Transfer]:
    """What every split and every entity lost, those that lost most first within each split.

    Args:
        observations: Of one run.
        metric: What was measured.
        floor: The level of a model that never knew, or of chance, if no control was observed.

    Example:
        >>> seen = [Observation("p", "retain", v, subject=s, scores=[v, v / 2], entities=["Ada", "Bo"])
        ...         for s, v in (("original", 1.0), ("unlearned", 0.5))]
        >>> [(t.entity, t.forget_ratio) for t in transfer(seen, "p", floor=0.0)]
        [('', 0.5), ('Ada', 0.5), ('Bo', 0.5)]

    References:
        `Unforgettable Generalization <https://arxiv.org/abs/2409.02228>`_, COLM 2024, for the matrix of tasks, from its
        abstract. The forget ratio was not looked up in the paper.
    """
    splits = list(dict.fromkeys(o.split for o in observations if o.metric == metric and not o.layer))
    found = []
    for split in splits:
        of = {s: _last(observations, metric, split, s) for s in ("original", "unlearned", "control")}
        before, after, control = of["original"], of["unlearned"], of["control"]
        if before is None or after is None:
            continue
        sign = 1.0 if before.higher_means_known else -1.0
        levels = [_by_entity(o) if o is not None else {} for o in (before, after, control)]
        rows = [
            _row(split, entity, [level.get(entity, []) for level in levels], sign, floor)
            for entity in levels[0]
            if entity in levels[1]
        ]
        whole = _row(split, "", [[o.estimate] if o is not None else [] for o in (before, after, control)], sign, floor)
        found += [_counted(whole, len(before.scores)), *sorted(rows, key=lambda row: -(row.forget_ratio or 0.0))]
    return found


@dataclass(frozen=True)
class TransferMatrix:
    """Forget ratios: one row for each request that was forgotten, one column for each split that was asked.

    Args:
        requests: Names of rows.
        splits: Names of columns.
        ratios: By row and column; ``None`` where it is not known.
    """

    requests: list[str] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    ratios: list[list[float | None]] = field(default_factory=list)


def transfer_matrix(
    runs: Mapping[str, Sequence[Observation]], metric: str, floor: float | None = None
) -> TransferMatrix:
    """Forget one thing, ask all the others: the matrix over runs that forgot different things.

    Args:
        runs: Observations of each run, by the name of what it forgot.
        metric: What was measured.
        floor: As in :func:`transfer`.
    """
    found = {
        request: {row.split: row.forget_ratio for row in transfer(observations, metric, floor) if not row.entity}
        for request, observations in runs.items()
    }
    splits = list(dict.fromkeys(split for row in found.values() for split in row))
    return TransferMatrix(list(found), splits, [[row.get(split) for split in splits] for row in found.values()])


def _row(split: str, entity: str, levels: Sequence[list[float]], sign: float, floor: float | None) -> Transfer:
    """Of the levels of the original, the unlearned model and the control."""
    before, after, control = levels
    original, unlearned = (sum(scores) / len(scores) for scores in (before, after))
    lowest = sum(control) / len(control) if control else floor
    lead = 0.0 if lowest is None else sign * (original - lowest)
    ratio = sign * (original - unlearned) / lead if lead >= LEAST_KNOWN else None
    return Transfer(split, entity, original, unlearned, lowest, ratio, len(before))


def _counted(row: Transfer, n: int) -> Transfer:
    return Transfer(row.split, row.entity, row.original, row.unlearned, row.floor, row.forget_ratio, n)


def _by_entity(observation: Observation) -> dict[str, list[float]]:
    scores: dict[str, list[float]] = {}
    for entity, score in zip(observation.entities, observation.scores, strict=bool(observation.entities)):
        scores.setdefault(entity, []).append(score)
    return scores


def _last(observations: Sequence[Observation], metric: str, split: str, subject: Subject) -> Observation | None:
    wanted = (metric, split, subject, "", False)
    fitting = [o for o in observations if (o.metric, o.split, o.subject, o.layer, o.attacked) == wanted]
    return fitting[-1] if fitting else None
