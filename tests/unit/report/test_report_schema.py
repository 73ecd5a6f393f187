"""Every report follows the schema in the package, and nothing else does."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import pytest
from _json_schema import faults
from _studies import control, observed, report_of, specificity, study

from lightning_unlearn.observation import Change, Cost, Failure, Observation
from lightning_unlearn.report import RobustnessReport, assess, recorded
from lightning_unlearn.report.schema import SCHEMA_FILE, SCHEMA_VERSION

SCHEMA: dict[str, Any] = json.loads(SCHEMA_FILE.read_text())


def full() -> RobustnessReport:
    """With something in every field."""
    inside = [observed(0.5, 9, layer="model.layers.0", interval=(0.4, 0.6), texts=["what it said"] * 24)]
    observations = [*study(), *control(0.2), specificity(0.9, "relearn"), *inside, observed(0.6, 9, "neighbours")]
    made = report_of(observations, failures=[Failure("RuntimeError", "full", attack="int4", point=4.0, unit="bits")])
    return recorded(
        made,
        weights={"original": [1], "unlearned": [2, 3]},
        changes=[Change("model.layers.0.weight", 4, True, True, 0.5, 0.1), Change("head", 4, False, False, 0.0)],
        costs=[Cost("relearn", "unlearned", 2, 3.5, 40)],
        seeds={"everything": 0},
        budget={"steps": 9.0},
        objective="NPO()",
        edits=["NegateTaskVector"],
    )


def of_not_a_number() -> RobustnessReport:
    observations = [Observation("nll", "forget", value, step) for step, value in enumerate([0.5, math.inf, math.nan])]
    return assess(observations, draws=20)


REPORTS = {"full": full, "nothing": lambda: assess([], draws=20), "not a number": of_not_a_number}


@pytest.fixture(params=REPORTS.values(), ids=REPORTS)
def data(request: pytest.FixtureRequest) -> Any:
    return json.loads(request.param().to_json())


def test_the_file_is_the_schema_of_the_dataclasses() -> None:
    assert RobustnessReport.json_schema() == SCHEMA, "run `python benchmarks/report_schema.py`"
    assert SCHEMA["properties"]["schema_version"] == {"const": SCHEMA_VERSION}


def test_a_report_follows_the_schema(data: Any) -> None:
    assert list(faults(data, SCHEMA, SCHEMA)) == []


def test_jsonschema_says_so_too(data: Any) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema, an extra for development, is not installed")
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert list(jsonschema.Draft202012Validator(SCHEMA).iter_errors(data)) == []


BREAKS = {
    "of another version": lambda d: d.update(schema_version=1),
    "without its record": lambda d: d.pop("record"),
    "with a field that nobody knows": lambda d: d.update(mood="good"),
    "of a model that nobody knows": lambda d: d["observations"][0].update(subject="teacher"),
    "a score that is no number": lambda d: d["observations"][0]["scores"].__setitem__(0, "high"),
    "an interval without its value": lambda d: d["levels"][0]["interval"].pop("value"),
    "a step in words": lambda d: d["recoveries"][0].update(step="nine"),
    "a gate of another status": lambda d: d["gates"][0].update(status="perhaps"),
    "a truth where a number should be": lambda d: d["record"]["changes"][0].update(elements=True),
}


@pytest.mark.parametrize("damage", BREAKS.values(), ids=BREAKS)
def test_what_is_no_report_does_not_follow_it(damage: Any) -> None:
    data = json.loads(full().to_json())
    before = copy.deepcopy(data)
    damage(data)
    assert data != before
    assert list(faults(data, SCHEMA, SCHEMA))


def test_a_full_report_survives_json() -> None:
    made = full()
    assert RobustnessReport.from_json(made.to_json()) == made
