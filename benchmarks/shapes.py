"""Does it hold for any fit? Thirty-four shapes of LightningModules: taught, made to forget, checked under attack.

    python benchmarks/shapes.py [--reprint]

Each module (`tests/_shapes.py`) learns 16 retain and 8 forget rows for 40 epochs under AdamW, and then trains on the retain
rows for 20 more: alone, with `Unlearn(NPO(beta=0.1), forget=loader)` and checks beside it, and with a forget weight of
1e-30. Nothing is said about a readout. Losses are those of `training_step` in evaluation mode, with the same draws each
time. Seed 0, one CPU core. JSON in `benchmarks/results/shapes.json`, from which `--reprint` prints the table.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from _shapes import SHAPES, Shape  # the same modules that the tests run

from lightning_unlearn import NPO, Quantize, RecoveryCheck, Relearn, Unlearn
from lightning_unlearn.engine import decided_readout
from lightning_unlearn.readouts import TrainingStepReadout

RESULTS = Path(__file__).parent / "results" / "shapes.json"
HEADER = ["module", "read by", "rows", "original", "forget loss", "retain loss", "checks", "weight 1e-30"]


def trainer(epochs: int, *callbacks: pl.Callback) -> pl.Trainer:
    quiet = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False)
    return pl.Trainer(accelerator="cpu", max_epochs=epochs, callbacks=list(callbacks), log_every_n_steps=1, **quiet)


def both(shape: Shape) -> torch.utils.data.DataLoader[Any]:
    rows = torch.utils.data.ConcatDataset([shape.retain().dataset, shape.forget().dataset])
    return torch.utils.data.DataLoader(rows, **{"batch_size": 4, **shape.loader})


def loss_on(module: pl.LightningModule, batches: Any) -> float:
    own = TrainingStepReadout(per_example=False).for_measuring()
    module = deepcopy(module).eval()  # a step may move queues and averages
    with torch.no_grad():
        return float(torch.stack([own(module, batch).token_nll().mean() for batch in batches]).mean())


def after(shape: Shape, start: dict[str, Any], *callbacks: pl.Callback) -> tuple[pl.LightningModule, pl.Trainer]:
    module = shape.module()
    module.load_state_dict(start)
    torch.manual_seed(0)
    (fit := trainer(20, *callbacks)).fit(module, shape.retain())
    return module, fit


def same(one: pl.LightningModule, two: pl.LightningModule) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


def measured(shape: Shape) -> dict[str, Any]:
    torch.manual_seed(0)
    module = shape.module()
    trainer(40).fit(module, both(shape))
    start = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    before = {"forget": loss_on(module, shape.forget()), "retain": loss_on(module, shape.retain())}
    plain, _ = after(shape, start)
    unlearn = Unlearn(NPO(beta=0.1), forget=shape.forget())
    check = RecoveryCheck({"int4": Quantize(bits=4), "relearn": Relearn(steps=5)}, every_n_epochs=0)
    forgotten, fit = after(shape, start, unlearn, check)
    readout = decided_readout(fit, forgotten)
    parts = readout.keys(next(iter(shape.forget())))
    absent, _ = after(shape, start, Unlearn(NPO(beta=0.1), forget=shape.forget(), weight=1e-30), check)
    losses = {
        name: [before[name], *(loss_on(m, getattr(shape, name)()) for m in (plain, forgotten))] for name in before
    }
    return {
        "readout": type(readout).__name__,
        "rows": "example" if len(parts) > 1 else "batch",
        "original": type(unlearn._original.loss.reference).__name__,
        "attacks": sorted({o.attack for o in check.observations}),
        "metrics": sorted({o.metric for o in check.observations}),
        "same": same(plain, absent),
        **losses,
    }


def line(name: str, found: dict[str, Any]) -> list[str]:
    arrows = [" → ".join(f"{value:.2f}" for value in found[split]) for split in ("forget", "retain")]
    own = {"TrainingStepReadout": "its own loss"}
    return [
        name,
        own.get(found["readout"], f"`{found['readout']}`"),
        f"per {found['rows']}",
        {"CachedLogLikelihood": "cached", "FrozenCopy": "copy"}[found["original"]],
        *arrows,
        ", ".join(name for name in found["attacks"] if name != "none") or "none",
        "bit for bit" if found["same"] else "differs",
    ]


def table(results: dict[str, Any]) -> str:
    rows = [HEADER, ["---"] * len(HEADER), *(line(name, found) for name, found in results["shapes"].items())]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="only these shapes, and no file")
    parser.add_argument("--reprint", action="store_true", help="print the table of the committed results")
    options = parser.parse_args()
    if options.reprint:
        print(table(json.loads(RESULTS.read_text())))
        return
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    found = {name: measured(shape) for name, shape in SHAPES.items() if not options.names or name in options.names}
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    results = {"commit": commit.stdout.strip(), "seed": 0, "shapes": found}
    if not options.names:
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
