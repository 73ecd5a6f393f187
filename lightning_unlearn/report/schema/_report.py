"""The report as one value, and its JSON."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from lightning_unlearn.observation import Failure, Observation
from lightning_unlearn.report.schema._decode import (
    to_failure,
    to_gate,
    to_level,
    to_observation,
    to_record,
    to_recovery,
    to_training_row,
)
from lightning_unlearn.report.schema._gate import Gate
from lightning_unlearn.report.schema._json import parse_json, to_strict_json
from lightning_unlearn.report.schema._json_schema import schema_of
from lightning_unlearn.report.schema._level import Level
from lightning_unlearn.report.schema._record import Record
from lightning_unlearn.report.schema._recovery import Recovery

SCHEMA_VERSION = 6
"""Version of ``report.json``. 6 added means by entity to observations, rows and tokens to costs, and what happened over the
run to the summary; 5 the record; 4 layers, intervals, numbers of examples and texts to observations, methods to intervals,
layers to levels, p- and q-values, and more to the summary; 3 failures and the gate on them; 2 price, specificity and further
splits."""

READ = (5, 6)
"""Versions that are read. What the later one added has defaults, which say that it was not observed."""


@dataclass(frozen=True)
class RobustnessReport:
    """What was forgotten, what was kept, what came back, and how far each number can be trusted.

    Made by ``assess``, which does the statistics; the constructor takes its results as they are.

    Args:
        run: When, where and how it was made. ``run["notes"]`` are shown among the limits, ``run["control"]`` says where
            the control model came from, ``run["interrupted"]`` by what the run was ended before its time.
        models: What is known of the models, by role: ``{"student": {"source": ..., "n_params": ...}}``.
        data: The data, by role: ``{"forget": {"name": ..., "n": ..., "content_hash": ..., "description": ...}}``.
        training: The training curve, one row per step: ``{"step": 10, "forget": ..., "retain": ..., "cosine": ...}``.
        observations: Every observation of the models.
        levels: How much the models know that were not attacked.
        gates: The conditions without which a number is not a verdict.
        recoveries: What each attack brought back at each of its points.
        summary: The headline: metrics, the verdict in words (of adversaries, of deployments), the worst case of each.
        warnings: What a reader should know before believing any number.
        failures: Every attack and audit that ended with an error.
        config: The configuration of the run, as YAML text.
        definitions: What the user's metrics mean, by name, in plain words.
        record: What somebody needs who wants to check it, or to make it again; and what it says nothing about.
        schema_version: Of the JSON.
    """

    run: dict[str, Any]
    models: dict[str, Any]
    data: dict[str, Any]
    training: list[dict[str, Any]]
    observations: list[Observation]
    levels: list[Level]
    gates: list[Gate]
    recoveries: list[Recovery]
    summary: dict[str, Any]
    warnings: list[str]
    failures: list[Failure] = field(default_factory=list)
    config: str = ""
    definitions: dict[str, str] = field(default_factory=dict)
    record: Record = field(default_factory=Record)
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> str:
        """The whole report as strict JSON; numbers that are not finite are strings."""
        return to_strict_json({"schema_version": self.schema_version, **asdict(self)})

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """The JSON Schema of :meth:`to_json`, as in the package's ``report/schema/report.schema.json``.

        Example:
            >>> RobustnessReport.json_schema()["title"]
            'RobustnessReport, version 6'
        """
        return schema_of(cls, SCHEMA_VERSION)

    @classmethod
    def from_json(cls, text: str, *, source: str = "the text") -> Self:
        """Build a report from its JSON.

        Args:
            text: What :meth:`to_json` gave.
            source: Where it comes from, for errors.

        Raises:
            ValueError: If it is cut short, has a schema version that is not read, or misses fields.
        """
        data = parse_json(text, source=source)
        # Before anything else: rows of another version would fail with an error that does not say why.
        if data.get("schema_version") not in READ:
            raise ValueError(
                f"`schema_version` should be {' or '.join(map(str, READ))}. Found `{data.get('schema_version')!r}`. "
                "Read the report with the version of lightning-unlearn that wrote it (`run.package_version`)."
            )
        missing = [part.name for part in fields(cls) if part.name not in data]
        if missing:
            raise ValueError(f"A report should have every field of its schema. Missing: `{', '.join(missing)}`.")
        try:
            read = {part.name: _decoded(part.name, data[part.name]) for part in fields(cls)}
            return cls(**{**read, "schema_version": SCHEMA_VERSION})  # as it will be written again
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"A report's rows should follow its schema. Found {error!r} in {source}.") from error

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a report from its folder or from its ``report.json``.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If the file is cut short, or is of a version that is not read.
        """
        file = Path(path).expanduser()
        file = file / "report.json" if file.is_dir() else file
        if not file.is_file():
            raise FileNotFoundError(
                f"`path` should be a report's folder or its `report.json`. Found nothing at `{file}`."
            )
        return cls.from_json(file.read_text(encoding="utf-8", errors="replace"), source=f"`{file}`")


_ROWS: dict[str, Callable[[Any], Any]] = {
    "training": to_training_row,
    "observations": to_observation,
    "failures": to_failure,
    "levels": to_level,
    "gates": to_gate,
    "recoveries": to_recovery,
}


def _decoded(name: str, value: Any) -> Any:
    if name == "record":
        return to_record(value)
    return [_ROWS[name](row) for row in value] if name in _ROWS else value
