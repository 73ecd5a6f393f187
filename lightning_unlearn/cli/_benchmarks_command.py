"""The command ``lightning-unlearn benchmarks``: what the ``lm-eval`` harness found, beside a report, with a gate."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lightning_unlearn.report import RobustnessReport, save, with_benchmarks

_ABOUT = (
    "Add what lm-eval found of the original and of the unlearned model to a report, with a gate for each loss that is "
    "allowed. For example: lightning-unlearn benchmarks --report runs/forgotten --original results/original --unlearned "
    "results/unlearned --tolerance arc_easy/acc=0.02. It exits with 1 if a gate fails."
)


def run_benchmarks(arguments: Sequence[str]) -> None:
    """Run ``lightning-unlearn benchmarks --report FOLDER --original RESULTS --unlearned RESULTS --tolerance ...``."""
    parser = argparse.ArgumentParser("lightning-unlearn benchmarks", description=_ABOUT)
    parser.add_argument("--report", required=True, help="the folder of the report; it is written again")
    parser.add_argument("--original", required=True, help="what lm-eval wrote of the model before unlearning")
    parser.add_argument("--unlearned", required=True, help="what lm-eval wrote of the unlearned model")
    parser.add_argument(
        "--tolerance", nargs="+", required=True, metavar="TASK/METRIC=LOSS", help="losses that are allowed"
    )
    chosen = parser.parse_args(arguments)
    allowed = dict(map(_tolerance, chosen.tolerance))
    begun = RobustnessReport.load(chosen.report)
    report = with_benchmarks(begun, chosen.original, chosen.unlearned, tolerances=allowed)
    file = Path(chosen.report)
    page = save(report, file.parent if file.suffix == ".json" else file)
    gates = [gate for gate in report.gates if gate.code == "G12"]
    sys.stdout.write("".join(f"G12 {gate.status}: {gate.reason}\n" for gate in gates) + f"The whole report: {page}\n")
    if any(gate.status == "fail" for gate in gates):
        sys.exit(1)


def _tolerance(text: str) -> tuple[str, float]:
    name, _, allowed = text.rpartition("=")
    try:
        return name, float(allowed)
    except ValueError as error:
        raise ValueError(f"`--tolerance` should be TASK/METRIC=LOSS, as arc_easy/acc=0.02. Found {text!r}.") from error
