"""Which forgetting stays? Methods at one disruption budget, judged by attackers of many kinds.

    python benchmarks/robustness.py run --model bundled            # prepare, tune, fit and judge, whatever is missing
    python benchmarks/robustness.py run --model bundled            # a second process shares the work
    python benchmarks/robustness.py estimate --model smollm2       # how long it would take; starts nothing
    python benchmarks/robustness.py table --model bundled          # results so far, figure, table of benchmarks/README.md
    python benchmarks/robustness.py reprint --model bundled        # that table, from the committed results
    python benchmarks/robustness.py run --model bundled --beyond   # judged by higher learning rates, a table of its own

**Settings.** `bundled`: TinyCausalLM, taught the bundled people, forgets three. `bundled_others`: the same, but for whom
it forgets: three others, since budget and length were set while those of `bundled` were looked at. `stories260k`: taught
ten authors of TOFU, forgets two. Full fine-tuning. Original and control (taught the same without what must go) are made
once a seed. `smollm2`: the networks of `tofu.py` (twenty authors, taught once; rates chosen as it says), eight of its
methods, which further attackers judge here: `run` makes what is missing of them, too.

**Budget.** One for all methods: the mean KL divergence, in nats a token, from the original to the unlearned network on
text that is neither retained nor judged. The last weights within it are kept. That text is TinyStories for
`stories260k`, WikiText for `smollm2`; the bundled network knows people alone, so four of them are taught and never
shown again.

**Tuning.** Equally many learning rates for every method, on other entities and a seed of its own. Chosen is the rate
with the smallest *lead* (how far an attacker, full fine-tuning at 1e-3, is ahead of one with a network that never knew,
at the best of 0 to 20 steps) among those that keep 0.95 of the retain probability. Then three seeds.

**Judges.** Relearning in float32, of all weights and by an adapter, at 3e-5, 1e-4, 3e-4 and 1e-3, on the forgotten
rows, on paraphrases, on every other fact (the rest is judged), and on text without the facts (sums of GSM8K; of the
bundled model, what the fit retains); int8, int4, nf4; pruning.
Three judges are in some method's loop: `Relearn(20)` takes up to twenty steps of all weights, or of an adapter, at 1e-3 on
the rows, and `Quantize` is int4 in groups of 32.
With `--beyond` relearning at 3e-3 and 1e-2 judges instead, 100 steps each: an attacker chooses his rate.
The network has no statistics to recalibrate. For the pretrained models fewer rates and mostly 20 steps: see `_judges.py`.

**Recovery**: [(attacked - unlearned) - (control attacked - control)] / (original - unlearned), of answer probability;
the worst over judges and their points up to 20 and up to 100 steps, and its 95 % interval by bootstrap over the facts.

Every unit of work is a file in `runs/robustness/`, so a study that was killed goes on. Methods whose parts this version
lacks are named and skipped. Writes `benchmarks/results/robustness_<model>.json` and `.png`.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).parent))

from robustness_parts._fit import meanings
from robustness_parts._judges import PANELS
from robustness_parts._method import methods
from robustness_parts._results import results
from robustness_parts._runner import RESULTS, available, carry_out, options, prepare
from robustness_parts._settings import SETTINGS
from robustness_parts._shown import draw, table
from robustness_parts._study import Study
from robustness_parts._units import made
from tofu_parts._chosen import tofu_study


def main() -> None:
    parser = options(__doc__, "robustness", device=True)
    parser.add_argument("--model", choices=[*SETTINGS, "smollm2"], default="bundled")
    parser.add_argument("--methods", nargs="+", help="some of `robustness_parts/methods.yaml`; all, if none is named")
    parser.add_argument("--beyond", action="store_true", help="judge by relearning at 3e-3 and 1e-2 instead")
    arguments = parser.parse_args()
    if arguments.beyond and arguments.model == "smollm2":
        parser.error("`--beyond` should come with a model whose networks are made here. Found `--model smollm2`.")
    path = RESULTS / f"robustness_{arguments.model}{'_beyond' if arguments.beyond else ''}.json"
    if arguments.command == "reprint":
        print(table(json.loads(path.read_text())))
        return
    prepare(arguments)
    if arguments.model == "smollm2":
        # Teaching and unlearning SmolLM2 take hours: its networks are those of `tofu.py`.
        arguments.folder = arguments.folder.with_name("tofu")
        study, missing = tofu_study(arguments, PANELS["beside"])
        carry_out(study, arguments, lambda: show(study, missing, path), missing=missing)
        return
    setting = SETTINGS[arguments.model].on(arguments.device, arguments.precision)
    if arguments.beyond:
        setting = replace(setting, panel="beyond")
    chosen = [methods()[name] for name in arguments.methods or methods()]
    wanted, missing = available(chosen, meanings(setting, "test", seed=0, rate=1.0), setting.name)
    study = Study(setting, tuple(wanted), tuple(arguments.seeds), arguments.folder / setting.name)
    carry_out(study, arguments, lambda: show(study, missing, path), missing=missing)


def show(study: Study, missing: dict[str, str], path: Path) -> None:
    """Merge what is there, write it, and print the table."""
    found = {"made": made(study.units()), **results(study, missing)}
    if not any(one["runs"] for one in found["methods"].values()):
        print("No method has been judged yet: `run` goes on. What was written before stays.")
        return
    path.write_text(json.dumps(found, indent=1) + "\n")
    draw(found, path.with_suffix(".png"))
    print(table(found))


if __name__ == "__main__":
    main()
