"""Tables of what was measured, made of the committed results by the scripts that wrote them."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from api_pages import write
from sphinx.application import Sphinx

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this."""
    app.connect("builder-inited", lambda app: write(Path(app.srcdir) / "measured" / "index.md", "\n".join(_page())))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class Table(NamedTuple):
    """What is asked, how it was measured, where the results are, and who prints them."""

    question: str
    command: str
    results: str
    module: str
    drawn: Callable[[Any, dict[str, Any]], str]


_WAYS = ("joint", "peer", "ours", "plain")
TABLES = (
    Table(
        "Which forgetting stays?",
        "robustness.py run --model bundled",
        "robustness_bundled",
        "robustness_parts._shown",
        lambda script, found: script.table(found),
    ),
    Table(
        "Which forgetting stays on SmolLM2-135M?",
        "robustness.py run --model smollm2 --seeds 0 1 --precision bf16-mixed",
        "robustness_smollm2",
        "robustness_parts._shown",
        lambda script, found: script.table(found),
    ),
    Table(
        "TOFU on SmolLM2-135M",
        "tofu.py audit --precision bf16-mixed",
        "tofu_smollm2",
        "tofu_parts._shown",
        lambda script, found: script.table(found),
    ),
    Table(
        "The demo, with the attack in the loop",
        "run_config.py bundled:quickstart --seeds 0 1 2",
        "quickstart",
        "run_config",
        lambda script, found: script.table(found["runs"], "probability"),
    ),
    Table(
        "The same without the attack in the loop",
        "run_config.py bundled:plain --seeds 0 1 2",
        "plain",
        "run_config",
        lambda script, found: script.table(found["runs"], "probability"),
    ),
    Table(
        "What a step costs, beside the field's way",
        "step_cost.py --turns 2 --steps 5",
        "step_cost",
        "step_cost",
        lambda script, found: script.table({k: v for k, v in found["variants"].items() if k.split(":")[0] in _WAYS}),
    ),
    Table(
        "What a step under attack costs",
        "step_cost.py --under --turns 1 --steps 4",
        "step_cost_under",
        "step_cost",
        lambda script, found: script.table_under(found["variants"]),
    ),
    Table(
        "What guarding and merging cost",
        "projection_cost.py",
        "projection_cost",
        "projection_cost",
        lambda script, found: script.table(found["variants"]),
    ),
    Table(
        "What an attack in a check costs",
        "attack_cost.py",
        "attack_cost",
        "attack_cost",
        lambda script, found: script.table(found["rows"], {}),
    ),
    Table(
        "Any fit: thirty-four shapes of modules",
        "shapes.py",
        "shapes",
        "shapes",
        lambda script, found: script.table(found),
    ),
)
_STEPS = {"NPO": "npo", "SimNPO": "simnpo", "GradientAscent": "graddiff", "KLToReference": "npo_kl"}
_GUARDED = {
    "StepGuard": "full: rank 1",
    "NoIncrease": "full: rank 1",
    "NoChange": "full: rank 1, null",
    "History": "full: rank 8",
    "BFloat16": "full: rank 8, bf16",
    "Int8": "full: rank 8, int8",
    "PerExample": "full: 4 examples",
    "MatrixFree": "full: 4 examples, matrix-free",
    "OptimizerMetric": "full: rank 1, optimizer's metric",
    "SubspaceGuard": "full: subspace",
    "Orthogonal": "full: Orthogonal",
    "HalfSpace": "full: HalfSpace",
    "SignRule": "full: SignRule",
    "PCGrad": "full: PCGrad",
}
_ATTACKS = {"Relearn": "relearn_full", "PassiveRecovery": "passive", "Quantize": "quantize", "Prune": "prune"}


@cache
def results(name: str) -> dict[str, Any]:
    """What is committed."""
    found: dict[str, Any] = json.loads((BENCHMARKS / "results" / f"{name}.json").read_text())
    return found


_ABOVE = """\
# What was measured

Made from the committed JSON when these pages are built. Settings, aims, and what follows from the numbers stand in
[`benchmarks/README.md`](../../benchmarks/README.md); where a machine was shared, it says so.
"""


def _page() -> Iterator[str]:
    yield _ABOVE
    for table in TABLES:
        found = results(table.results)
        yield from (
            f"## {table.question}",
            "",
            f"`python benchmarks/{table.command}`; {_origin(table.results, found)}",
            "",
        )
        yield from (table.drawn(import_module(table.module), found), "")


def _origin(name: str, found: dict[str, Any]) -> str:
    machine = found.get("machine", {})
    said = [f"[`results/{name}.json`](../../benchmarks/results/{name}.json)"]
    said += [f"commit `{found['commit']}`"] if "commit" in found else ["commits in it"]
    said += [f"torch {machine['torch']}, {machine['threads']} thread(s)"] if machine else []
    return ", ".join(said) + "."


def cost(name: str) -> str:
    """What the class of this name costs, if that was measured."""
    if name in _STEPS:
        seen = results("step_cost")["variants"]
        ours, plain = seen[f"ours:{_STEPS[name]}:full"], seen["plain:none:full"]
        ratio = statistics.median(ours["seconds"]) / statistics.median(plain["seconds"])
        more = " with NPO" if _STEPS[name].endswith("_kl") else ""
        return f"{ratio:.2f} of a step of plain fine-tuning on the same rows{more} (SmolLM2, all weights)"
    if name in _GUARDED:
        found = results("projection_cost")["variants"][_GUARDED[name]]
        ratio = statistics.median(s / p for s, p in zip(found["seconds"], found["plain"], strict=True))
        memory = found["gigabytes"] / found["plain gigabytes"]
        return f"{ratio:.2f} of the step without, {memory:.2f} of its memory (SmolLM2, all weights)"
    if name in _ATTACKS:
        found = results("attack_cost")["rows"][_ATTACKS[name]]
        by_hand = f"{found['seconds_by_hand']:.1f} for the same passes by hand"
        return f"{found['seconds']:.1f} CPU seconds in a check, {by_hand} (``attack_cost.py``)"
    return ""


class Withstood(NamedTuple):
    """What one method of the study gave back to the worst of its judges, and what it cost."""

    method: str
    after_20: str
    after_100: str
    passes: int


def withstood(name: str) -> list[Withstood]:
    """The methods of the study that the class of this name has a part in, the best first."""
    shown = import_module("robustness_parts._shown")
    found = results("robustness_bundled")
    return [
        Withstood(
            method,
            *(shown.span(runs, lambda run, n=n: run["worst"][n]["recovery"], 2) for n in ("20", "100")),
            found["methods"][method]["description"].get("passes", 2),
        )
        for method, runs in shown.complete(found).items()
        if name in set(_names(found["methods"][method]["description"]))
    ]


def _names(described: Any) -> Iterator[str]:
    if isinstance(described, dict):
        for key, value in described.items():
            yield key
            yield from _names(value)
    elif isinstance(described, list):
        for value in described:
            yield from _names(value)
