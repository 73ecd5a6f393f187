"""Does it hold for any language model? Every causal family of transformers, built tiny and measured.

    python benchmarks/families.py run [--families llama gpt2 ...]    # measures what is missing, then prints the table
    python benchmarks/families.py table                              # of the committed results
    python benchmarks/families.py readme                             # the same, into benchmarks/README.md

Each model has two layers or a few more, 32 channels, windows and chunks of 8 tokens, and random weights with noise on all of
them (`families_parts/sizes.yaml`). Seed 0, float32, one CPU thread.

**Exact.** Loss and gradient of both readouts, in four orders of batches (short rows first, long ones first, padding on the
left, mixed lengths), against those that transformers computes itself row by row without padding. Largest relative
difference over all batches; of a tensor's gradient, relative to its norm. 1e-5 is exact.

**Answers.** Greedy decoding with and without padding, against a loop over whole forward passes.

**Shares.** Of the numbers in weight matrices, those that an attack, an adapter or a guard reaches: what ours says, and what
was found to change, by comparing values and the answers of each layer.

One JSON a family in `runs/families/`, so a run that was killed goes on. Writes `benchmarks/results/families.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).parent))

import lightning
import peft
import torch
import transformers
from families_parts._build import families
from families_parts._row import row
from families_parts._shown import shown
from run_config import commit, machine

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "families.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["run", "table", "readme"])
    parser.add_argument("--families", nargs="+", help="some of them, and no file of results; all, if none is named")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "families")
    parser.add_argument("--again", action="store_true", help="measure anew what has been measured")
    arguments = parser.parse_args()
    if arguments.command != "run":
        table = shown(json.loads(RESULTS.read_text()))
        print(table) if arguments.command == "table" else write_into(ROOT / "benchmarks" / "README.md", table)
        return
    quieten()
    names = arguments.families or families()
    found = {"commit": commit(), "machine": machine(), "versions": versions(), "seed": 0}
    found["families"] = [measured(name, arguments.folder, again=arguments.again) for name in names]
    if not arguments.families:
        RESULTS.write_text(one_line_each(found))
    print(shown(found))


def write_into(page: Path, table: str) -> None:
    """Put the table between the two marks of a page."""
    before, mark, rest = page.read_text().partition("<!-- families -->\n")
    _, end, after = rest.partition("<!-- end of families -->")
    page.write_text(f"{before}{mark}{table}\n{end}{after}")


def measured(family: str, folder: Path, *, again: bool) -> dict[str, Any]:
    """The row of a family, from its file if it was measured before."""
    file = folder / f"{family}.json"
    if again or not file.exists():
        print(family, file=sys.stderr, flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(row(family), indent=1) + "\n")
    return json.loads(file.read_text())


def one_line_each(found: dict[str, Any]) -> str:
    """As JSON, with a line for each family, so that two runs can be compared."""
    head = {key: value for key, value in found.items() if key != "families"}
    lines = ",\n".join(json.dumps(line) for line in found["families"])
    return f'{json.dumps(head)[:-1]}, "families": [\n{lines}\n]}}\n'


def versions() -> dict[str, str]:
    return {package.__name__: package.__version__ for package in (torch, transformers, peft, lightning)}


def quieten() -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()


if __name__ == "__main__":
    main()
