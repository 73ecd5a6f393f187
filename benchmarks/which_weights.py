"""Which weights? NPO on those that a selector chooses, beside as many chosen at random, and beside all.

    python benchmarks/which_weights.py run --model stories260k      # teach, tune, fit and judge, whatever is missing
    python benchmarks/which_weights.py run --model stories260k      # a second process shares the work
    python benchmarks/which_weights.py estimate --model stories260k # how long it would take; starts nothing
    python benchmarks/which_weights.py table --model bundled        # results so far, figure, table of benchmarks/README.md
    python benchmarks/which_weights.py reprint --model bundled      # that table, from the committed results

**Settings, teaching, budget and tuning** are those of `robustness.py`. `stories260k` is taught ten authors of TOFU and
forgets two; `bundled` is TinyCausalLM, taught the bundled people, and forgets three. All selectors spend at most one budget
of disruption (KL divergence on neutral text), and try three learning rates, a factor of four apart, on other entities and a
seed of their own: what moves fewer weights may need to move them further.

**Shares.** A tenth of all elements, a tenth of all tensors, a tenth of the matrices between embedding and head, or one
block. Each selector has a control beside it that chooses as many of the same at random, anew for each seed. Tensors differ
in size, so the share of weights that is trained stands in the table.

**Columns.** Probability of the answers that must go; share of the original's probability of those that must stay; what was
spent of the budget; the attacker's lead: how likely the forgotten answers are after the worse of two attacks, relearning up
to 20 steps and rounding to four bits, beyond what the same attack makes of a network that never knew.

**Differences** from the control are paired by seed and fact; their 95 % intervals are a bootstrap over both. There are two
or three entities to forget, too few to resample, so it is counted in how many pairs of seed and entity a selector is ahead.

Every unit of work is a file in `runs/which_weights/`, so a study that was killed goes on. Writes
`benchmarks/results/which_weights_<model>.json` and `.png`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).parent))

import torch
from robustness import quieten
from robustness_parts._study import Study
from robustness_parts._units import do, made
from which_weights_parts._results import results
from which_weights_parts._shown import complete, draw, shown
from which_weights_parts._study import STEPS, SelectorStudy, available, selectors, settings

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["run", "estimate", "table", "reprint"])
    parser.add_argument("--model", choices=list(STEPS), default="bundled")
    parser.add_argument(
        "--selectors", nargs="+", help="some of `which_weights_parts/selectors.yaml`; all, if none is named"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--retry", action="store_true", help="try again what ended in an error")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "which_weights")
    arguments = parser.parse_args()
    if arguments.command == "reprint":
        print(shown(json.loads((RESULTS / f"which_weights_{arguments.model}.json").read_text())))
        return
    torch.set_num_threads(arguments.threads)
    quieten()
    setting = settings(arguments.model)
    wanted, missing = available(arguments.selectors or list(selectors()), setting)
    study = SelectorStudy(setting, tuple(wanted), tuple(arguments.seeds), arguments.folder / setting.name)
    if arguments.retry:
        for unit in study.units():
            unit.forget_error()
    left = [unit for unit in study.units() if not unit.is_done]
    seconds = sum(unit.seconds for unit in left)
    print(
        f"{len(wanted)} selectors, {len(left)} units left, about {seconds / 60:.0f} minutes in one process", flush=True
    )
    for name, reason in missing.items():
        print(f"skipped: {name} ({reason})", flush=True)
    if arguments.command == "run":
        do(study.units())
    if arguments.command != "estimate":
        show(study, missing)


def show(study: Study, missing: dict[str, str]) -> None:
    """Merge what is there, write it, and print the table."""
    found = {"made": made(study.units()), **results(study, missing)}
    if not complete(found):
        print("No selector has been judged yet: `run` goes on. What was written before stays.")
        return
    path = RESULTS / f"which_weights_{study.setting.name}.json"
    path.write_text(json.dumps(found, indent=1) + "\n")
    draw(found, path.with_suffix(".png"))
    print(shown(found))


if __name__ == "__main__":
    main()
