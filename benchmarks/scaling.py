"""How cost grows: time and memory over rows, tokens, vocabulary, width, directions, probes, attacks, and processes.

    python benchmarks/scaling.py                    # all, about ten minutes of one core
    python benchmarks/scaling.py --axes rows tokens
    python benchmarks/scaling.py --reprint          # tables and figure of the results on disk

A Llama of two layers with random weights, 128 wide, 4096 words, tied; 4 + 4 rows of 64 random tokens; float32, one thread.
One of these grows, and a step is timed: `plain` is fine-tuning by hand on the same rows, `ours` NPO through the Trainer.
Directions: a guard that corrects every step, with the step without a guard taken off. Probes and attacks: one
`RecoveryCheck`, whose attacks round the weights; of attacks, the look without any is taken off.

Seconds are CPU time of the process, since the machine is shared; medians of three steps or two looks. Memory is the
highest resident size of the process while a point is measured, over that before its network was built. *Work* is the
number of floating-point operations that torch counts in the same step; for directions, the numbers read. Exponents are
slopes in logarithms with 95 % intervals over the whole range, and *at the end* between the two largest sizes, where fixed
costs count least. Traffic is what one step of rank 0 hands to gloo's collectives, seen by the profiler. Estimates for
GPUs are by formula (`scaling_parts/_paper.py`), not measured.

Writes `benchmarks/results/scaling.json` and `scaling.png`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from scaling_parts._axes import AXES, WITHOUT
from scaling_parts._paper import estimates

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "scaling.json"
PROCESSES = (1, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axes", nargs="+", default=[*AXES, "processes"], choices=[*AXES, "processes"])
    parser.add_argument("--out", type=Path, default=RESULTS, help="where results are written; the figure beside")
    parser.add_argument("--reprint", action="store_true", help="print the tables of the results on disk")
    parser.add_argument("--one", help="what a process of its own measures, as JSON")
    arguments = parser.parse_args()
    if arguments.one:
        print("RESULT " + json.dumps(one(**json.loads(arguments.one))))
        return
    if not arguments.reprint:
        measure(arguments.axes, arguments.out)
    from scaling_parts._shown import figure, shown

    found = json.loads(arguments.out.read_text())
    figure(found, arguments.out.with_suffix(".png"))
    print(shown(found))


def measure(axes: list[str], out: Path) -> None:
    from run_config import commit, machine
    from scaling_parts._traffic import GUARDS

    for axis in axes:
        if axis == "processes":
            new = {way: in_a_process_of_its_own(way=way, axis=axis, values=PROCESSES) for way in GUARDS}
        else:
            values = [*([0] if axis in WITHOUT else []), *AXES[axis][1]]
            new = {way: in_a_process_of_its_own(way=way, axis=axis, values=values) for way in AXES[axis][2]}
        # Read again: axes may be measured side by side.
        found = json.loads(out.read_text()) if out.exists() else {"axes": {}, "traffic": {}}
        found |= {"commit": commit(), "machine": machine(), "estimates": estimates()}
        if axis == "processes":
            found["traffic"] = new
        else:
            found["axes"][axis] = new
        out.write_text(json.dumps(found, indent=1) + "\n")


def in_a_process_of_its_own(**what: Any) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", json.dumps(what)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise RuntimeError(f"{what} should print a result. Found:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    print(what, lines[0], flush=True)
    result: dict[str, Any] = json.loads(lines[0].removeprefix("RESULT "))
    return result


def one(way: str, axis: str, values: list[int]) -> dict[str, Any]:
    """By value, the smallest first."""
    import logging
    import warnings

    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    if axis == "processes":
        from scaling_parts._point import Size
        from scaling_parts._traffic import traffic

        return {str(n): traffic(way, Size(), n) for n in values}
    from scaling_parts._point import measured

    base = AXES[axis][0]
    measured(way, base.of(rows=1, tokens=16, probes=2, vocabulary=256, width=64))  # imports count for nobody
    return {str(value): measured(way, base.of(**{axis: value})) for value in values}


if __name__ == "__main__":
    main()
