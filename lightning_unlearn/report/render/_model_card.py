"""A section for a model's page: plain Markdown, to be pasted."""

from collections.abc import Iterable, Iterator

from lightning_unlearn.functional.text import visible
from lightning_unlearn.report.analysis._lm_eval import PREFIX
from lightning_unlearn.report.render._leading import recoveries_by
from lightning_unlearn.report.render._record_view import KINDS
from lightning_unlearn.report.render._rows import level_of
from lightning_unlearn.report.render._verdict import verdict
from lightning_unlearn.report.schema import Recovery, RobustnessReport
from lightning_unlearn.report.schema._words import (
    level_words,
    name,
    percent,
    plain,
    point_words,
    price_words,
    recovery_words,
)

_SPECIAL = "\\`*_{}[]<>#|!~&"


def to_model_card(report: RobustnessReport) -> str:
    """What was forgotten, kept and brought back, with intervals, limits, and how to make it again.

    Texts of the user are escaped: they are no markup, whatever they say.
    """
    return "\n".join(line for part in _parts(report) for line in part) + "\n"


def _parts(report: RobustnessReport) -> Iterator[Iterable[str]]:
    answer = verdict(report)
    forgotten = str(report.data.get("forget", {}).get("name", "the forget set"))
    yield "## What was unlearned, and how well", ""
    yield f"Asked to forget: {_safe(forgotten)}.", ""
    yield f"**{_safe(answer.word)}.** {_safe(answer.sentence)}", ""
    yield _safe(report.summary["verdict"]), ""
    yield from ((_safe(report.summary["deployment"]), ""),) if report.summary["deployment"] else ()
    yield "### What the model knows", "", *_levels(report), ""
    if rows := [*_attacks(report)]:
        yield "### What attacks bring back", "", *_table(["attack", "strength", "recovery", "price"], rows), ""
        yield (
            "Recovery is the share of what was removed that an attack brings back, less what the same attack teaches a "
            "model that never knew, where there was one. Price is the share of the rest that the attack costs. In "
            "brackets: 95 % intervals over the examples.",
            "",
        )
    yield "### Limits", "", *[f"- {_safe(limit)}" for limit in (*report.run.get("notes", []), *report.warnings)], ""
    yield "### Not claimed", "", *[f"- {_safe(sentence)}" for sentence in report.record.not_claimed], ""
    yield "### How to make it again", "", *_facts(report)


def _levels(report: RobustnessReport) -> list[str]:
    metric, utility = report.summary["headline_metric"], report.summary["utility_metric"]
    benchmarks = [(level.metric, level.split) for level in report.levels if level.split.startswith(PREFIX)]
    wanted = dict.fromkeys([(metric, "forget"), (utility, "retain"), *benchmarks])
    rows = [
        [
            f"{name(kind)}, {split.removeprefix(PREFIX)}{'' if split.startswith(PREFIX) else ' set'}",
            *(level_words(level_of(report.levels, kind, m, split)) for m in ("original", "unlearned", "control")),
        ]
        for kind, split in wanted
    ]
    return _table(["", "original", "unlearned", "control"], rows)


def _attacks(report: RobustnessReport) -> Iterator[list[str]]:
    both = [*recoveries_by(report, deployment=False), *recoveries_by(report, deployment=True)]
    for worst in (recovery for recovery in both if recovery.worst):
        yield [worst.attack, point_words(worst), _shown(worst), price_words(worst.price)]


def _shown(worst: Recovery) -> str:
    return recovery_words(worst.shown) + ("" if worst.is_verdict else " (no verdict)")


def _facts(report: RobustnessReport) -> Iterator[str]:
    record, run = report.record, report.run
    method = record.method
    facts = {
        "Made with": f"lightning-unlearn {run.get('package_version', '?')}, torch {run.get('torch', '?')}",
        "Method": "; ".join(p for p in (method.objective, *method.edits, KINDS.get(method.kind, "")) if p),
        "Weights that changed": "" if method.measured is None else percent(method.measured, digits=1),
        "Data": plain({role: about["content_hash"] for role, about in report.data.items() if "content_hash" in about}),
        "Weights": plain(dict(record.weights)),
        "Configuration": record.config_hash,
        "Commit": str(record.code.get("git_commit", "")),
        "Seeds": plain(record.seeds),
    }
    yield from (f"- {what}: {_safe(words)}" for what, words in facts.items() if words)


def _table(head: list[str], rows: Iterable[list[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *([_safe(cell) for cell in row] for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def _safe(text: str) -> str:
    return "".join(f"\\{c}" if c in _SPECIAL else c for c in visible(text))
