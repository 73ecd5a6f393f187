"""Forgetting in image classifiers, against retraining from scratch.

    python benchmarks/vision.py run --model mnist           # teach, retrain, tune, fit and judge, whatever is missing
    python benchmarks/vision.py run --model cifar10         # a second process shares the work
    python benchmarks/vision.py estimate --model cifar10    # how long it would take; starts nothing
    python benchmarks/vision.py table --model mnist         # results so far
    python benchmarks/vision.py reprint --model mnist       # the table of the committed results

**Settings.** `cifar10`: ResNet-20 on 2000 images (JPEG copies, averaged down to 16 x 16), 1000 to test. `mnist`: a vision
transformer of three blocks on 3000 digits, 2000 to test.

**Requests.** `class`: all images of one class. `subclass`: the network tells groups of two classes apart, and the images of
one class of a group must go. `sample`: a tenth of the images, drawn at random.

**Yardstick.** The same start, trained on the retain data alone in the same way: what a network would be that never saw what
must go. Each seed has its own original and its own retrained network.

**Columns.** Share of right answers on what must go, what must stay, and unseen images like what must stay. `membership`:
how often a forgotten image has a more likely label than an unseen one like it (0.5: cannot be told). `gap`: mean absolute
difference of these four from the retrained network. `divergence`: mean Jensen-Shannon divergence from what the retrained
network says. `weights`: distance from its weights, over that of the original. `lead`: probability of the forgotten labels,
in images that the attacker does not see, ahead of the retrained network's: before, and after the same attack on both, at
the best of his points. He relearns from the other half of what was forgotten, at the better of two rates, 20 steps;
recalibrates the statistics of norms on retain data; or rounds to four bits.

**Tuning.** Three rates for each method, on another class (or draw) and a seed of its own; the one with the smallest gap. Of
SSD the rate is its threshold, of one-step ascent the first step of the line search. Then three seeds. In `Random labels
under Relearn` and its like, the forget gradient is taken inside relearning at 1e-3, which is one of the attacker's rates.

Every unit of work is a file in `runs/vision/`, so a study that was killed goes on. Methods whose parts this version lacks
are named and skipped. Writes `benchmarks/results/vision_<model>.json`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).parent))

from robustness_parts._method import methods
from robustness_parts._runner import RESULTS, available, carry_out, options, prepare
from run_config import commit, machine
from vision_parts._fit import meanings
from vision_parts._results import results, table
from vision_parts._settings import SETTINGS
from vision_parts._study import Study
from vision_parts._world import KINDS, World

METHODS = Path(__file__).parent / "vision_parts" / "methods.yaml"


def main() -> None:
    parser = options(__doc__, "vision")
    parser.add_argument("--model", choices=list(SETTINGS), default="mnist")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--methods", nargs="+", help="some of `vision_parts/methods.yaml`; all, if none is named")
    arguments = parser.parse_args()
    path = RESULTS / f"vision_{arguments.model}.json"
    if arguments.command == "reprint":
        print(table(json.loads(path.read_text())))
        return
    prepare(arguments)
    setting, every = SETTINGS[arguments.model], methods(METHODS)
    chosen = [every[name] for name in arguments.methods or every]
    wanted, missing = available(chosen, meanings(World(setting, "class", "test", seed=0), rate=1.0), setting.name)
    kinds, seeds = tuple(arguments.kinds), tuple(arguments.seeds)
    study = Study(setting, kinds, tuple(wanted), seeds, arguments.folder / setting.name)
    carry_out(study, arguments, lambda: show(study, missing, path), missing=missing)


def show(study: Study, missing: dict[str, str], path: Path) -> None:
    """Merge what is there, write it, and print the table."""
    found = {"commit": commit(), "machine": machine(), **results(study, missing)}
    if not any(method["runs"] for kind in found["kinds"].values() for method in kind["methods"].values()):
        print("No method has been judged yet: `run` goes on. What was written before stays.")
        return
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))


if __name__ == "__main__":
    main()
