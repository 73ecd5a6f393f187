"""From the rows of a report's JSON to values."""

from collections.abc import Mapping
from typing import Any

from lightning_unlearn.observation import Change, Cost, Failure, Observation
from lightning_unlearn.report.schema._gate import Gate
from lightning_unlearn.report.schema._interval import Interval
from lightning_unlearn.report.schema._json import NOT_FINITE
from lightning_unlearn.report.schema._level import Level
from lightning_unlearn.report.schema._record import Method, Record
from lightning_unlearn.report.schema._recovery import Recovery

_INTERVALS = ("forget", "retain", "rho", "adjusted", "specificity")


def to_observation(row: Mapping[str, Any]) -> Observation:
    """Build an observation from its JSON."""
    bounds = None if row["bounds"] is None else tuple(map(float, row["bounds"]))
    scores = [float(score) for score in row["scores"]]  # `float` also reads "nan" and "inf", as strict JSON holds them
    interval = None if row["interval"] is None else tuple(map(float, row["interval"]))
    means = {entity: float(mean) for entity, mean in row.get("by_entity", {}).items()}  # version 5 has none
    numbers = {"value": float(row["value"]), "scores": scores, "by_entity": means}
    return Observation(**{**row, **numbers, "bounds": bounds, "interval": interval})


def to_failure(row: Mapping[str, Any]) -> Failure:
    """Build a failure from its JSON."""
    return Failure(**row)


def to_gate(row: Mapping[str, Any]) -> Gate:
    """Build a gate from its JSON."""
    return Gate(**row)


def to_level(row: Mapping[str, Any]) -> Level:
    """Build a level from its JSON."""
    return Level(**{**row, "interval": _interval(row["interval"])})


def to_recovery(row: Mapping[str, Any]) -> Recovery:
    """Build a recovery from its JSON."""
    intervals = {name: _interval(row[name]) for name in _INTERVALS if row[name] is not None}
    numbers = {name: _number(row[name]) for name in ("kappa", "price")}
    others = {split: _interval(interval) for split, interval in row["others"].items()}
    return Recovery(**{**row, **intervals, **numbers, "others": others})


def to_record(row: Mapping[str, Any]) -> Record:
    """Build the record from its JSON."""
    changes = [Change(**{**change, "relative": _number(change["relative"])}) for change in row["changes"]]
    costs = [Cost(**cost) for cost in row["costs"]]
    return Record(**{**row, "method": Method(**row["method"]), "changes": changes, "costs": costs})


def to_training_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Build a row of the training curve from its JSON."""
    return {key: _number(value) if value in NOT_FINITE else value for key, value in row.items()}


def _interval(row: Mapping[str, Any]) -> Interval:
    return Interval(**{**row, "value": float(row["value"]), "low": _number(row["low"]), "high": _number(row["high"])})


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
