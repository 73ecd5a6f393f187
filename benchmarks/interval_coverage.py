"""How often do the report's 95 % intervals hold the truth?

    python benchmarks/interval_coverage.py            # about a quarter of an hour on one core
    python benchmarks/interval_coverage.py --show     # the tables of README.md from what is committed

Thousands of made-up studies whose truth is known: entities with 1 to 20 questions each, more or less alike within an entity
(icc, the share of a logit's variance that is the entity's), levels, gaps, recoveries, control-adjusted ones, shares of yes
and no. Beside the report's interval stand Student's t and the percentile bootstrap over entities. Then: rows instead of
entities, where there are too few of these; several seeds; and the largest of several attacks, chosen on the entities that
judge it or on others. Writes `benchmarks/results/interval_coverage.json`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path
from typing import Any

from interval_coverage_parts._designs import DESIGNS
from interval_coverage_parts._levels import choosing, coverage_over_seeds
from interval_coverage_parts._shown import tables
from interval_coverage_parts._studies import coverage, coverage_of_these

RESULTS = Path(__file__).with_name("results") / "interval_coverage.json"
ENTITIES = (5, 7, 10, 20, 50)
ROWS = (("1", 0.5), ("5", 0.1), ("5", 0.5), ("1 to 20", 0.1), ("1 to 20", 0.5))
OF_THESE = ("level about 0.5", "level about 0.1, skewed", "gap", "recovery", "recovery beyond the control")


def measured(studies: int, draws: int) -> dict[str, Any]:
    size = {"studies": studies, "draws": draws}
    cells = []
    for design in DESIGNS:
        for entities in ENTITIES:
            cells += [coverage(design, entities, rows, icc, **size) for rows, icc in ROWS]
            print(design.name, entities, cells[-1]["ours"], flush=True)
    few = [
        coverage_of_these(design, entities, rows, 0.5, studies=studies // 4, draws=draws)
        for design in DESIGNS
        if design.name in OF_THESE
        for entities in (2, 3, 4)
        for rows in (5, 20)
    ]
    return {
        **size,
        "commit": _commit(),
        "entities": cells,
        "rows": few,
        "seeds": [
            coverage_over_seeds(seeds, entities, spread, studies=studies // 2, draws=draws)
            for seeds in (2, 3, 5)
            for entities in (5, 10, 20)
            for spread in (0.0, 0.3, 1.0)
        ],
        "choosing": [
            choosing(attacks, entities, studies=studies // 2, draws=draws)
            for attacks in (2, 8, 32)
            for entities in (10, 20, 50)
        ],
    }


def _commit() -> str:
    return subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1600, help="of each kind")
    parser.add_argument("--draws", type=int, default=1000, help="resamples of each study")
    parser.add_argument("--show", action="store_true", help="print the tables of what is committed")
    arguments = parser.parse_args()
    if not arguments.show:
        RESULTS.write_text(json.dumps(measured(arguments.studies, arguments.draws), indent=1) + "\n")
    print(tables(json.loads(RESULTS.read_text())))


if __name__ == "__main__":
    main()
