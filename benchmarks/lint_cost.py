"""What looking over a request costs, by the number of rows: is it linear, and seconds for a hundred thousand?

    python benchmarks/lint_cost.py

Rows are those of the tests: ten facts about each of invented people, of whom a tenth must go; no finding is in them. CPU
seconds of one process, since wall time on a shared machine is that of the others; no file is read.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from lightning_unlearn.data import Linter, QuestionAnswer, Request  # noqa: E402
from tests._lint_faults import clean  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "lint_cost.json"
SIZES = (1_000, 10_000, 100_000, 200_000)


def rows(given: list[dict[str, str]], name: str) -> list[QuestionAnswer]:
    return [QuestionAnswer(**row, source=f"row {number} of `{name}`") for number, row in enumerate(given)]


def spent(size: int) -> dict[str, float]:
    """CPU seconds of each check, the first of which also finds the words, and of all together."""
    people = size // 10
    request = clean(people // 10, people - people // 10)
    given = Request(rows(request.forget, "forget"), rows(request.retain, "retain"))
    seconds: dict[str, float] = {}
    for check in Linter().checks:
        start = time.process_time()
        assert not list(check(given))
        seconds[type(check).__name__] = round(time.process_time() - start, 4)
    return {"all": round(sum(seconds.values()), 3)} | seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    spent(1_000)  # what is imported once is imported
    found = {str(size): spent(size) for size in parser.parse_args().sizes}
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    told = {"commit": commit.strip(), "python": platform.python_version(), "cpu_seconds": found}
    RESULTS.write_text(json.dumps(told, indent=1) + "\n")
    print(f"| rows | {' | '.join(next(iter(found.values())))} | all, microseconds a row |")
    print("|---" * (len(next(iter(found.values()))) + 2) + "|")
    for size, seconds in found.items():
        print(
            f"| {size} | {' | '.join(f'{s:.2f}' for s in seconds.values())} | {1e6 * seconds['all'] / int(size):.0f} |"
        )


if __name__ == "__main__":
    main()
