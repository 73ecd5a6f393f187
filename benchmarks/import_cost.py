"""What importing the package costs beyond Lightning, and how soon the command line answers; each in processes of its own.

    python benchmarks/import_cost.py --times 9

Seconds of one process's CPU time, since wall time on a shared machine is that of the others. Compiled files are there, as
after an installation: they are written by a first round, which is not counted, into a folder of this run's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from statistics import median

RESULTS = Path(__file__).parent / "results" / "import_cost.json"
ROOT = Path(__file__).parents[1]
BEYOND = (
    "import lightning.pytorch, time; t = time.process_time(); import lightning_unlearn; print(time.process_time() - t)"
)
CASES = {
    "`import torch`": ["-c", "import torch"],
    "`import lightning.pytorch`": ["-c", "import lightning.pytorch"],
    "`import lightning_unlearn`": ["-c", "import lightning_unlearn"],
    "`lightning-unlearn --help`": ["-m", "lightning_unlearn_command", "--help"],
    "`lightning-unlearn --version`": ["-m", "lightning_unlearn_command", "--version"],
    "`lightning-unlearn configs`": ["-m", "lightning_unlearn_command", "configs"],
    "`lightning-unlearn fit --help`": ["-m", "lightning_unlearn_command", "fit", "--help"],
}


def spent(arguments: list[str], environment: dict[str, str]) -> tuple[float, str]:
    """CPU seconds of a Python process, and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ran = subprocess.run([sys.executable, *arguments], env=environment, check=True, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, ran.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=9)
    times = parser.parse_args().times
    with tempfile.TemporaryDirectory() as compiled:
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        environment |= {"PYTHONPYCACHEPREFIX": compiled, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        found = {"beyond `import lightning.pytorch`": []} | {name: [] for name in CASES}
        for turn in range(times + 1):  # in turns, so that a busy minute meets all of them
            seconds = {name: spent(arguments, environment)[0] for name, arguments in CASES.items()}
            seconds["beyond `import lightning.pytorch`"] = float(spent(["-c", BEYOND], environment)[1])
            if turn:
                for name, value in seconds.items():
                    found[name].append(round(value, 3))
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    versions = {name: version(name) for name in ("torch", "lightning", "transformers")}
    told = {"commit": commit.strip(), "python": platform.python_version(), **versions, "cpu_seconds": found}
    RESULTS.write_text(json.dumps(told, indent=1) + "\n")
    print("| | CPU seconds, median (smallest to largest) |\n|---|---|")
    for name, values in found.items():
        print(f"| {name} | {median(values):.2f} ({min(values):.2f} to {max(values):.2f}) |")


if __name__ == "__main__":
    main()
