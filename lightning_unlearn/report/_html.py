"""One page that needs nothing but itself: no script, no font, no image from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lightning_unlearn.report._definitions import DEFINITIONS
from lightning_unlearn.report._findings import strongest
from lightning_unlearn.report._markup import Markup, element, join
from lightning_unlearn.report._plots import panels
from lightning_unlearn.report._rows import Row, level_of, recovery_row, verdict_rows
from lightning_unlearn.report._schema import Gate, Interval
from lightning_unlearn.report._style import style
from lightning_unlearn.report._words import name, number, percent, plain, point_words, recovery_words

if TYPE_CHECKING:
    from lightning_unlearn.report._report import RobustnessReport


def to_page(report: RobustnessReport) -> str:
    """The report as one HTML page."""
    title = f"Forgetting report: {_forgotten(report)}"
    head = element(
        "head",
        Markup('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
        element("title", title),
        element("style", Markup(style())),
    )
    parts = (_asked, _verdict, _tiles, _limits, _table, _figures, _more, _setting, _definitions, _footer)
    body = element("body", element("main", *[part(report) for part in parts]))
    return f'<!DOCTYPE html>\n<html lang="en">{head}\n{body}</html>\n'


def _forgotten(report: RobustnessReport) -> str:
    return str(report.data.get("forget", {}).get("name", "the forget set"))


def _asked(report: RobustnessReport) -> Markup:
    forget = report.data.get("forget", {})
    asked = [element("p", str(forget["description"]))] if forget.get("description") else []
    sets = [f"{plain(part.get('n', '?'))} {role} examples" for role, part in report.data.items() if "n" in part]
    made = [*sets, str(report.run.get("created_utc", "")).replace("T", " ").replace("+00:00", " UTC")]
    return join(
        [
            element("p", "Robustness report", class_="kicker"),
            element("h1", f"Asked to forget: {_forgotten(report)}"),
            *asked,
            element("p", " · ".join(part for part in made if part), class_="soft"),
        ]
    )


def _verdict(report: RobustnessReport) -> Markup:
    decided = report.summary["worst"] is not None
    return element("p", report.summary["verdict"], class_="verdict" if decided else "verdict grey")


def _tiles(report: RobustnessReport) -> Markup:
    headline, utility = report.summary["headline_metric"], report.summary["utility_metric"]
    return element(
        "div",
        _change_tile("What was forgotten", report, headline, "forget", blocking="G1"),
        _change_tile("What was kept", report, utility, "retain", blocking="G2"),
        _recovered_tile(report, headline),
        class_="tiles",
    )


def _change_tile(title: str, report: RobustnessReport, metric: str, split: Any, *, blocking: str) -> Markup:
    before, after = (level_of(report.levels, metric, model, split) for model in ("original", "unlearned"))
    change = f"{number(before.value if before else None)} → {number(after.value if after else None)}"
    grey = any(gate.blocks for gate in report.gates if gate.code == blocking and gate.metric in ("", metric))
    return _tile(title, change, f"{name(metric)} on the {split} set, original → unlearned", grey=grey)


def _recovered_tile(report: RobustnessReport, metric: str) -> Markup:
    worst = strongest([recovery for recovery in report.recoveries if recovery.metric == metric])
    if worst is None:
        return _tile("What came back", "no verdict", "no attack passes its gates", grey=True)
    found = f"recovery {recovery_words(worst.shown)}, by {worst.attack} at {point_words(worst)}"
    return _tile("What came back", percent(worst.shown.value), found)


def _tile(title: str, said: str, unit: str, *, grey: bool = False) -> Markup:
    parts = (element("span", title, class_="name"), element("b", said), element("span", unit, class_="unit"))
    return element("div", *parts, class_="tile grey" if grey else "tile")


def _limits(report: RobustnessReport) -> Markup:
    said = [*[str(note) for note in report.run.get("notes", [])], *report.warnings]
    points = element("ul", *[element("li", warning) for warning in said])
    return element("section", element("h2", "Read this first"), points, class_="limits")


def _table(report: RobustnessReport) -> Markup:
    metric = report.summary["headline_metric"]
    return join(
        [
            element("h2", "What the models know"),
            _rows_table(verdict_rows(report, metric), metric),
            element("p", _direction(report, metric), class_="soft"),
        ]
    )


def _rows_table(rows: Sequence[Row], metric: str) -> Markup:
    columns = ("model", f"forget: {name(metric)}", f"retain: {name(metric)}", "recovery", "gates")
    head = element("thead", element("tr", *[element("th", column, scope="col") for column in columns]))
    body = element("tbody", *[_row(row) for row in rows])
    return element("div", element("table", head, body, class_="cards"), class_="scroll")


def _row(row: Row) -> Markup:
    gate = [element("span", row.gate, class_="gate")] if row.gate else []
    gate += [element("span", reason, class_="reason") for reason in row.reasons]
    bar = [_bar(row.bar)] if row.bar else []
    more = [element("span", said, class_="where") for said in row.more]
    cells = (
        element("td", row.who, element("span", row.where, class_="where"), class_="who"),
        element("td", element("span", _number(row.forget)), data_label="forget"),
        element("td", element("span", _number(row.retain)), data_label="retain"),
        element("td", element("div", _number(row.recovery), *bar, *more), data_label="recovery"),
        element("td", element("div", *gate), data_label="gates", class_="gates" if gate else "none"),
    )
    return element("tr", *cells, class_="grey" if row.reasons else "plain")


def _number(words: str) -> Markup:
    value, bracket, rest = words.partition(" [")
    return join([value, " ", element("span", "[" + rest, class_="between")]) if bracket else join([value])


def _bar(interval: Interval) -> Markup:
    """Recovery between 0 and 100 %, its interval behind it."""
    spread = []
    if interval.low is not None and interval.high is not None:
        low, high = _share(interval.low), _share(interval.high)
        spread = [element("i", class_="spread", style=f"left:{low:.1f}%;width:{high - low:.1f}%")]
    dot = element("i", class_="dot", style=f"left:{_share(interval.value):.1f}%")
    return element("div", *spread, dot, class_="bar", aria_hidden="true")


def _share(value: float) -> float:
    return 100 * min(max(value, 0.0), 1.0) if value == value else 0.0  # NaN differs from itself


def _direction(report: RobustnessReport, metric: str) -> str:
    up = next(
        (observation.higher_means_known for observation in report.observations if observation.metric == metric), True
    )
    said = "Higher" if up else "Lower"
    return f"{said} {name(metric)} means that the model knows more. Of each attack, the point that brought back most."


def _figures(report: RobustnessReport) -> Markup:
    drawn = [element("figure", element("figcaption", panel.title), Markup(panel.to_svg())) for panel in panels(report)]
    if not drawn:
        return Markup()
    legend = (
        "Bands are 95 % intervals. Hollow grey points are not a verdict; gates were checked on the final model only."
    )
    key = element("p", legend, class_="soft")
    return join([element("h2", "Over the run"), element("div", *drawn, class_="figures"), key])


def _more(report: RobustnessReport) -> Markup:
    tables = []
    for metric in dict.fromkeys(recovery.metric for recovery in report.recoveries):
        rows = [recovery_row(recovery) for recovery in report.recoveries if recovery.metric == metric]
        levels = [row for row in verdict_rows(report, metric) if row.bar is None]
        tables.append(_fold(f"Every attack, every point: {name(metric)}", _rows_table([*levels, *rows], metric)))
    return join([element("h2", "Everything that was measured"), *tables, _fold("Every gate", _gates(report.gates))])


def _gates(gates: Sequence[Gate]) -> Markup:
    columns = ("gate", "claim", "reach", "status", "found")
    head = element("thead", element("tr", *[element("th", column, scope="col") for column in columns]))
    rows = []
    for gate in sorted(gates, key=lambda gate: gate.code):
        reach = " ".join([gate.metric, gate.attack, "" if gate.point is None else f"at {gate.point}"]).strip() or "all"
        cells = zip(columns, (gate.code, gate.claim, reach, gate.status, gate.reason), strict=True)
        rows.append(
            element(
                "tr",
                *[element("td", said, data_label=column, class_=gate.status) for column, said in cells],
            )
        )
    return element("div", element("table", head, element("tbody", *rows), class_="cards"), class_="scroll")


def _setting(report: RobustnessReport) -> Markup:
    attacks = {recovery.attack: recovery.attack_config for recovery in report.recoveries}
    folds = [
        ("The attacks", _list(attacks)),
        ("The data", _list(report.data)),
        ("The models", _list(report.models)),
        ("The environment", _list({key: value for key, value in report.run.items() if key != "notes"})),
    ]
    config = [_fold("The configuration", element("pre", report.config))] if report.config else []
    return join([element("h2", "The setting"), *config, *[_fold(title, inner) for title, inner in folds if inner]])


def _definitions(report: RobustnessReport) -> Markup:
    unused = {"control-adjusted recovery"} if all(r.adjusted is None for r in report.recoveries) else set()
    unused |= {"still known"} if all(r.kappa is None for r in report.recoveries) else set()
    general = {word: meaning for word, meaning in DEFINITIONS.items() if word not in unused}
    users = {name(metric): meaning for metric, meaning in report.definitions.items()}
    return join([element("h2", "What the words mean"), _list({**general, **users})])


def _footer(report: RobustnessReport) -> Markup:
    version = report.run.get("package_version", "")
    said = f"lightning-unlearn {version}, schema {report.schema_version}. Every number here is in report.json."
    return element("footer", said)


def _fold(title: str, inner: Markup) -> Markup:
    return element("details", element("summary", title), inner)


def _list(items: Mapping[str, Any]) -> Markup:
    rows = [join([element("dt", str(key)), element("dd", plain(value))]) for key, value in items.items()]
    return element("dl", *rows) if rows else Markup()
