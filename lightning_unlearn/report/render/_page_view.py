"""The values that the page's template shows. They are computed here; the template only places them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightning_unlearn.report.render._definitions import definitions_for
from lightning_unlearn.report.render._examples import WorstExamples, worst_examples
from lightning_unlearn.report.render._further import FurtherTable, further_facts, further_tables
from lightning_unlearn.report.render._heat import HeatMap, change_map, heat_maps
from lightning_unlearn.report.render._over_time import OverTime, over_the_fit
from lightning_unlearn.report.render._panel import Panel
from lightning_unlearn.report.render._panels import panels
from lightning_unlearn.report.render._record_view import cost_rows, record_facts
from lightning_unlearn.report.render._rows import Row, columns_of, every_row, verdict_rows
from lightning_unlearn.report.render._tiles import Tile, tiles
from lightning_unlearn.report.render._verdict import Verdict, verdict
from lightning_unlearn.report.schema import RobustnessReport
from lightning_unlearn.report.schema._words import name, plain


@dataclass(frozen=True)
class PageView:
    """A report as the page shows it.

    Args:
        report: What is shown.
    """

    report: RobustnessReport

    @property
    def forgotten(self) -> str:
        """What the model was asked to forget."""
        return str(self.report.data.get("forget", {}).get("name", "the forget set"))

    @property
    def description(self) -> str:
        """The data's own description of it, if there is one."""
        return str(self.report.data.get("forget", {}).get("description", ""))

    @property
    def made(self) -> list[str]:
        """On how many examples, and when."""
        sets = [f"{plain(part['n'])} {role} examples" for role, part in self.report.data.items() if "n" in part]
        when = str(self.report.run.get("created_utc", "")).replace("T", " ").replace("+00:00", " UTC")
        return [part for part in (*sets, when) if part]

    @property
    def limits(self) -> list[str]:
        """What a reader should know before believing any number."""
        return [*[str(note) for note in self.report.run.get("notes", [])], *self.report.warnings]

    @property
    def not_claimed(self) -> list[str]:
        """What the report says nothing about."""
        return self.report.record.not_claimed

    @property
    def verdict(self) -> Verdict:
        """One word, one sentence."""
        return verdict(self.report)

    @property
    def tiles(self) -> list[Tile]:
        """The numbers behind the verdict, large."""
        return tiles(self.report)

    @property
    def verdict_rows(self) -> list[Row]:
        """The models and the worst point of each attack, on the metric the report leads with."""
        return verdict_rows(self.report, self.report.summary["headline_metric"])

    def every_row(self, metric: str) -> list[Row]:
        """The models and every point of each attack."""
        return every_row(self.report, metric)

    @property
    def column_names(self) -> list[str]:
        """Short heads of the columns, for narrow screens."""
        return columns_of(self.report).names

    def columns(self, metric: str) -> list[str]:
        """Heads of the columns."""
        splits = columns_of(self.report).splits
        return [f"{column}: {name(metric)}" if column in splits else column for column in self.column_names]

    @property
    def direction(self) -> str:
        """Which way the leading metric points, and what the table leaves out."""
        metric = self.report.summary["headline_metric"]
        up = next((o.higher_means_known for o in self.report.observations if o.metric == metric), True)
        return (
            f"{'Higher' if up else 'Lower'} {name(metric)} means that the model knows more. "
            "Of each attack, the point that brought back most."
        )

    @property
    def metrics(self) -> list[str]:
        """All metrics, of models with and without an attack."""
        names = [
            *(r.metric for r in self.report.recoveries),
            *(level.metric for level in self.report.levels if not level.layer),
        ]
        return list(dict.fromkeys(names))

    @property
    def panels(self) -> list[Panel]:
        """The plots."""
        return panels(self.report)

    @property
    def over_the_fit(self) -> OverTime | None:
        """When each entity was forgotten."""
        return over_the_fit(self.report)

    @property
    def heat_maps(self) -> list[HeatMap]:
        """What layers know."""
        return heat_maps(self.report)

    @property
    def change_map(self) -> HeatMap | None:
        """How much of each layer was changed."""
        return change_map(self.report.record.changes)

    @property
    def worst_examples(self) -> WorstExamples | None:
        """The examples that came back most."""
        return worst_examples(self.report)

    @property
    def further(self) -> dict[str, str]:
        """What the statistics found beside the verdict."""
        return further_facts(self.report)

    @property
    def further_tables(self) -> list[FurtherTable]:
        """The same, of what is a table."""
        return further_tables(self.report)

    @property
    def record(self) -> dict[str, Any]:
        """What identifies models, data and code."""
        return record_facts(self.report.record)

    @property
    def costs(self) -> list[tuple[str, ...]]:
        """What each attack cost."""
        return list(cost_rows(self.report.record))

    @property
    def setting(self) -> dict[str, Mapping[str, Any]]:
        """How the run was made."""
        return {
            "The attacks": {
                **{failure.attack: failure.attack_config for failure in self.report.failures if failure.attacked},
                **{recovery.attack: recovery.attack_config for recovery in self.report.recoveries},
            },
            "The data": self.report.data,
            "The models": self.report.models,
            "The environment": {key: value for key, value in self.report.run.items() if key != "notes"},
        }

    @property
    def definitions(self) -> dict[str, str]:
        """Definitions of the report's terms, then of the user's metrics."""
        users = {name(metric): meaning for metric, meaning in self.report.definitions.items()}
        return {**definitions_for(self.report), **users}
