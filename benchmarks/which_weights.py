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

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).parent))

from robustness_parts._fit import meanings
from robustness_parts._runner import RESULTS, available, carry_out, options, prepare
from robustness_parts._study import Study
from robustness_parts._units import made
from which_weights_parts._results import results
from which_weights_parts._shown import complete, draw, shown
from which_weights_parts._study import STEPS, SelectorStudy, selectors, settings


def main() -> None:
    parser = options(__doc__, "which_weights", device=True)
    parser.add_argument("--model", choices=list(STEPS), default="bundled")
    parser.add_argument(
        "--selectors", nargs="+", help="some of `which_weights_parts/selectors.yaml`; all, if none is named"
    )
    arguments = parser.parse_args()
    path = RESULTS / f"which_weights_{arguments.model}.json"
    if arguments.command == "reprint":
        print(shown(json.loads(path.read_text())))
        return
    prepare(arguments)
    setting = settings(arguments.model).on(arguments.device)
    chosen = [selectors()[name] for name in arguments.selectors or selectors()]
    wanted, missing = available(chosen, meanings(setting, "test", seed=0, rate=1.0), setting.name)
    study = SelectorStudy(setting, tuple(wanted), tuple(arguments.seeds), arguments.folder / setting.name)
    carry_out(study, arguments, lambda: show(study, missing, path), missing=missing)


def show(study: Study, missing: dict[str, str], path: Path) -> None:
    """Merge what is there, write it, and print the table."""
    found = {"made": made(study.units()), **results(study, missing)}
    if not complete(found):
        print("No selector has been judged yet: `run` goes on. What was written before stays.")
        return
    path.write_text(json.dumps(found, indent=1) + "\n")
    draw(found, path.with_suffix(".png"))
    print(shown(found))


if __name__ == "__main__":
    main()
