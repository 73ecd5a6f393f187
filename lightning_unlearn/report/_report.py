"""The product a sceptical reviewer reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from rich.console import Console

from lightning_unlearn.observation import Observation
from lightning_unlearn.report._assess import Assessment
from lightning_unlearn.report._environment import environment
from lightning_unlearn.report._files import write_atomically
from lightning_unlearn.report._findings import limits, strongest, verdict_words
from lightning_unlearn.report._html import to_page
from lightning_unlearn.report._intervals import Bootstrap
from lightning_unlearn.report._json import (
    parse_json,
    to_gate,
    to_level,
    to_observation,
    to_recovery,
    to_strict_json,
    to_training_row,
)
from lightning_unlearn.report._plots import to_png
from lightning_unlearn.report._schema import Gate, Level, Recovery
from lightning_unlearn.report._series_of_observations import ObservationSeries
from lightning_unlearn.report._table import to_table

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class RobustnessReport:
    """What was forgotten, what was kept, what came back, and how far each number can be trusted.

    Made by :meth:`from_observations`, which does the statistics; the constructor takes its results as they are.

    Args:
        run: When, where and how it was made; ``run["notes"]`` are shown among the limits.
        models: What is known of the models, by role: ``{"student": {"source": ..., "n_params": ...}}``.
        data: The data, by role: ``{"forget": {"name": ..., "n": ..., "content_hash": ..., "description": ...}}``.
        training: The training curve, one row per look: ``{"step": 10, "forget": ..., "retain": ..., "cosine": ...}``.
        observations: Every look at the models.
        levels: How much the models know that were not attacked.
        gates: The conditions without which a number is not a verdict.
        recoveries: What each attack brought back at each of its points.
        summary: The headline: metrics, worst case and the verdict in words.
        warnings: What a reader should know before believing any number.
        config: The setting that ran, as YAML text.
        definitions: What the user's metrics mean, by name, in plain words.
        schema_version: Of the JSON.

    Example:
        >>> who = ["Ada", "Ada", "Bo", "Bo"]
        >>> def observation(step, scores, split="forget", **attack):
        ...     value = sum(scores) / len(scores)
        ...     return Observation("probability", split, value, step, scores=scores, entities=who, **attack)
        >>> kept = [observation(step, [0.75, 0.75, 0.75, 0.75], "retain", **attack) for step, attack in
        ...         [(0, {}), (9, {}), (9, {"attack": "int4", "point": 4, "unit": "bits"})]]
        >>> report = RobustnessReport.from_observations(kept + [
        ...     observation(0, [0.75, 1.0, 0.5, 0.75]), observation(9, [0.25, 0.5, 0.0, 0.25]),
        ...     observation(9, [0.5, 0.75, 0.25, 0.5], attack="int4", point=4, unit="bits")])
        >>> report.recoveries[0].rho.value, report.recoveries[0].is_verdict
        (0.5, True)
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
    config: str = ""
    definitions: dict[str, str] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    @classmethod
    def from_observations(
        cls,
        observations: Sequence[Observation],
        *,
        run: Mapping[str, Any] | None = None,
        models: Mapping[str, Any] | None = None,
        data: Mapping[str, Any] | None = None,
        training: Sequence[Mapping[str, Any]] = (),
        warnings: Sequence[str] = (),
        config: str = "",
        definitions: Mapping[str, str] | None = None,
        restored: bool | None = None,
        floors: Mapping[str, float] | None = None,
        headline: str | None = None,
        utility: str | None = None,
        draws: int = 2000,
        seed: int = 0,
    ) -> RobustnessReport:
        """Compute levels, gates and recoveries from what was observed.

        The original is the first look that was not attacked, the unlearned model the last one; of each attack the
        last step at which it ran counts.

        Args:
            observations: Every look at the models, in the order they were made.
            run: Added to :func:`environment`.
            models: See the class.
            data: See the class.
            training: See the class.
            warnings: Shown before those found here.
            config: See the class.
            definitions: See the class.
            restored: Whether the weights were the same after the attacks as before; None if nobody compared.
            floors: What a model that never knew would score on the forget set, per metric.
            headline: The metric to lead with. Defaults to a bounded one where more means more knowledge.
            utility: The metric that says, on the retain set, whether a model works. Defaults to the headline.
            draws: Number of bootstrap resamples.
            seed: Of the bootstrap.
        """
        looks = ObservationSeries(list(observations))
        headline = headline or looks.headline()
        utility = utility or looks.utility(headline)
        assessment = Assessment(looks, utility, Bootstrap(draws, seed), restored, floors or {})
        levels, gates, recoveries = assessment.levels(), assessment.gates(), assessment.recoveries()
        leading = [recovery for recovery in recoveries if recovery.metric == headline]
        return cls(
            run={**environment(), **(run or {})},
            models=dict(models or {}),
            data=dict(data or {}),
            training=[dict(row) for row in training],
            observations=list(observations),
            levels=levels,
            gates=gates,
            recoveries=recoveries,
            summary=summarise(headline, utility, looks.unlearned_step, recoveries),
            warnings=[*warnings, *limits(observations, levels, gates, leading)],
            config=config,
            definitions=dict(definitions or {}),
        )

    def to_json(self) -> str:
        """The whole report as strict JSON; numbers that are not finite are strings."""
        return to_strict_json({"schema_version": self.schema_version, **asdict(self)})

    @classmethod
    def from_json(cls, text: str, *, source: str = "the text") -> RobustnessReport:
        """Build a report from its JSON.

        Args:
            text: What :meth:`to_json` gave.
            source: Where it comes from, for errors.

        Raises:
            ValueError: If it is cut short, has another schema version or misses fields.
        """
        data = parse_json(text, source=source)
        if data.get("schema_version") != SCHEMA_VERSION:
            raise ValueError(
                f"`schema_version` should be {SCHEMA_VERSION}. Found `{data.get('schema_version')}`. "
                "Read the report with the version of lightning-unlearn that wrote it (`run.package_version`)."
            )
        missing = [part.name for part in fields(cls) if part.name not in data]
        if missing:
            raise ValueError(f"A report should have every field of its schema. Missing: `{', '.join(missing)}`.")
        try:
            return cls(**{part.name: _DECODE.get(part.name, _same)(data[part.name]) for part in fields(cls)})
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"A report's rows should follow its schema. Found {error!r} in {source}.") from error

    @classmethod
    def load(cls, path: str | Path) -> RobustnessReport:
        """Read a report from its folder or from its ``report.json``.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If the file is cut short, or is of another version.
        """
        file = Path(path)
        file = file / "report.json" if file.is_dir() else file
        if not file.is_file():
            raise FileNotFoundError(
                f"`path` should be a report's folder or its `report.json`. Found nothing at `{file}`."
            )
        return cls.from_json(file.read_text(encoding="utf-8", errors="replace"), source=f"`{file}`")

    def save(self, folder: str | Path) -> Path:
        """Write ``report.json``, ``curves.png`` and ``report.html``, each either whole or not at all.

        Args:
            folder: Made if it is missing; a report that is there already is replaced.

        Returns:
            The page.

        Raises:
            OSError: If the folder cannot be written.
        """
        page = Path(folder) / "report.html"
        write_atomically(page.with_name("report.json"), self.to_json().encode())  # first: a plot can be redrawn
        write_atomically(page.with_name("curves.png"), to_png(self))
        write_atomically(page, self.to_html().encode())
        return page

    def to_html(self) -> str:
        """One page that needs nothing but itself."""
        return to_page(self)

    def print(self, console: Console | None = None, page: str | Path | None = None) -> None:
        """Say what was forgotten, kept and recovered, in the terminal.

        Args:
            console: Where to. Defaults to the standard output.
            page: Where the page was saved, to point to; its folder will do.
        """
        (console or Console()).print(to_table(self, page=page))


def summarise(headline: str, utility: str, step: int, recoveries: Sequence[Recovery]) -> dict[str, Any]:
    """The headline of a report, as plain values."""
    worst = strongest([recovery for recovery in recoveries if recovery.metric == headline])
    return {
        "headline_metric": headline,
        "utility_metric": utility,
        "unlearned_step": step,
        "verdict": verdict_words(headline, recoveries),
        "worst": None if worst is None else {"attack": worst.attack, "point": worst.point, "unit": worst.unit},
    }


def _same(value: Any) -> Any:
    return value


_DECODE: dict[str, Callable[[Any], Any]] = {
    "training": lambda rows: [to_training_row(row) for row in rows],
    "observations": lambda rows: [to_observation(row) for row in rows],
    "levels": lambda rows: [to_level(row) for row in rows],
    "gates": lambda rows: [to_gate(row) for row in rows],
    "recoveries": lambda rows: [to_recovery(row) for row in rows],
}
