"""Does it matter in which order rows come? Every order, at equally many forget updates.

    python benchmarks/orders.py run                    # teach, and fit once for each order and seed, whatever is missing
    python benchmarks/orders.py estimate               # how long it would take; starts nothing
    python benchmarks/orders.py table                  # the results so far
    python benchmarks/orders.py reprint                # the table, from the committed results

stories260k is taught ten authors of TOFU, and forgets two with NPO, as in `robustness.py` (whose setting, teaching and
units of work these are): 40 rows must go and 160 stay, in batches of 8 and 16. One learning rate for all orders, full
fine-tuning with AdamW, no weight decay. All take the same number of steps with one forget batch each, whatever they call an
epoch; where an order has fewer retain rows in an epoch, they come again sooner.

Told are the mean probability of answers (the geometric mean over their tokens) that must go and that must stay, at the end,
and how many of the 160 retain rows were ever shown; mean over seeds, with the smallest and the largest.

Each unit is a file in `runs/orders/`, so that a study that was killed goes on, and a second process shares the work.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).parent))

import lightning.pytorch as pl
import torch
from robustness_parts._fit import teach, trainer
from robustness_parts._judges import READOUT, known
from robustness_parts._runner import RESULTS, carry_out, options, prepare
from robustness_parts._settings import SETTINGS
from robustness_parts._study import digest, load, plain, write
from robustness_parts._units import Found, Unit
from run_config import commit, machine
from torch import nn

from lightning_unlearn import NPO, ForgetRetainData, Unlearn, UnlearningModule
from lightning_unlearn.data import (
    BalancedOrder,
    CyclicOrder,
    DifficultyOrder,
    Exponential,
    ModularOrder,
    NeighboursOrder,
    Order,
    PowerLaw,
    RandomOrder,
    RecencyOrder,
    ReoccurringOrder,
    SequentialOrder,
    SpacedOrder,
)

SETTING = SETTINGS["stories260k"]
ORDERS: dict[str, Order | None] = {
    "none: both shuffled by their loaders": None,
    "RandomOrder": RandomOrder(),
    "CyclicOrder": CyclicOrder(),
    "SequentialOrder": SequentialOrder(),
    "BalancedOrder": BalancedOrder(),
    "NeighboursOrder": NeighboursOrder(),
    "ModularOrder": ModularOrder(),
    "RecencyOrder(PowerLaw(1))": RecencyOrder(PowerLaw(1.0)),
    "RecencyOrder(Exponential(0.5))": RecencyOrder(Exponential(0.5)),
    "SpacedOrder(4)": SpacedOrder(4),
    "SpacedOrder(4, fixed)": SpacedOrder(4, fixed=True),
    "ReoccurringOrder(2)": ReoccurringOrder(2),
    "DifficultyOrder: easy first": DifficultyOrder(),
    "DifficultyOrder: hard first": DifficultyOrder(hardest_first=True),
}


class Shown(pl.Callback):
    """Which retain rows were ever shown, and what is known on the way."""

    def __init__(self, every: int) -> None:
        self.every, self.rows, self.curve = every, set[tuple[int, ...]](), list[dict[str, float]]()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        pairs = zip(batch["input_ids"].tolist(), batch["attention_mask"].sum(1).tolist(), strict=True)
        self.rows |= {tuple(ids[:length]) for ids, length in pairs}
        if trainer.global_step % self.every == 0:
            self.curve.append({"step": trainer.global_step, **probabilities(pl_module.network)})


def probabilities(network: nn.Module) -> dict[str, float]:
    world = SETTING.world("test")
    sides = {"forget": world.forget, "retain": world.retain}
    return {name: round(fmean(known(network, SETTING, rows)), 5) for name, rows in sides.items()}


@dataclass(frozen=True)
class Study:
    """Every order and seed, as units of work in a folder.

    Args:
        seeds: Of teaching and of the fits.
        steps: Of each fit, with one forget batch each.
        rate: The learning rate.
        folder: Where results are.
    """

    seeds: Sequence[int]
    steps: int
    rate: float
    folder: Path

    def units(self) -> Iterator[Unit]:
        for seed in self.seeds:  # seed by seed: a study that is cut off has something to say about all orders
            yield self.taught(seed)
            for name in ORDERS:
                yield self.fitted(name, seed)

    def taught(self, seed: int) -> Unit:
        def work() -> Found:
            networks = teach(SETTING, "test", seed)
            for name, network in networks.items():
                write(network, self._weights(name, seed))
            return {name: probabilities(network) for name, network in networks.items()}

        return Unit(self._here / f"taught-{seed}.json", work, seconds=900 * SETTING.seconds)

    def fitted(self, name: str, seed: int) -> Unit:
        def work() -> Found:
            network = load(SETTING, self._weights("original", seed))
            return forget_(network, ORDERS[name], seed, self.steps, self.rate)

        path = self._here / f"{plain(name)}-{self.steps}-{self.rate:g}-{seed}.json"
        return Unit(path, work, (self.taught(seed),), seconds=2.5 * self.steps * SETTING.seconds)

    def _weights(self, name: str, seed: int) -> Path:
        return self._here / f"taught-{seed}-{name}.safetensors"

    @property
    def _here(self) -> Path:
        return self.folder / digest(SETTING.numbers())


def forget_(network: nn.Module, order: Order | None, seed: int, steps: int, rate: float) -> Found:
    pl.seed_everything(seed, verbose=False)
    world, shown = SETTING.world("test"), Shown(every=max(1, steps // 6))
    data = ForgetRetainData(
        retain=SETTING.data(world.retain, size=SETTING.batch[1], seed=seed),
        forget=SETTING.data(world.forget, seed=seed),
        order=order,
        seed=seed,
    )
    optimizer = partial(torch.optim.AdamW, lr=rate, weight_decay=0.0)
    module = UnlearningModule(network, readout=READOUT, optimizer=optimizer)
    trainer(SETTING, steps, [Unlearn(NPO()), shown]).fit(module, datamodule=data)
    return {**probabilities(network), "shown": len(shown.rows), "curve": shown.curve}


def results(study: Study) -> Found:
    """All that is there, order by order."""
    taught = {str(seed): study.taught(seed).found() for seed in study.seeds if study.taught(seed).is_done}
    units = {name: {str(seed): study.fitted(name, seed) for seed in study.seeds} for name in ORDERS}
    runs = {name: {seed: unit.found() for seed, unit in of.items() if unit.is_done} for name, of in units.items()}
    settings = {"steps": study.steps, "rate": study.rate, "batch": SETTING.batch, "model": SETTING.name}
    return {"commit": commit(), "machine": machine(), **settings, "taught": taught, "orders": runs}


def table(found: Found) -> str:
    lines = ["| order | must go | must stay | retain rows shown | seeds |", "|---|---|---|---|---|"]
    for who in ("original", "control"):
        of = [seed[who] for seed in found["taught"].values()]
        lines.append(f"| *{who}* | {_spread(of, 'forget')} | {_spread(of, 'retain')} | | {len(of)} |")
    for name, runs in found["orders"].items():
        of = [run for run in runs.values() if "error" not in run]
        if of:
            shown = _spread(of, "shown", "{:.0f}")
            lines.append(f"| {name} | {_spread(of, 'forget')} | {_spread(of, 'retain')} | {shown} | {len(of)} |")
    return "\n".join(lines)


def _spread(runs: list[Found], key: str, form: str = "{:.3f}") -> str:
    values = [run[key] for run in runs]
    if not values:
        return ""
    low, mean, high = (form.format(value) for value in (min(values), fmean(values), max(values)))
    return mean if low == high else f"{mean} ({low} to {high})"


def main() -> None:
    parser = options(__doc__, "orders")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--rate", type=float, default=1e-3)
    chosen = parser.parse_args()
    path = RESULTS / "orders.json"
    if chosen.command == "reprint":
        print(table(json.loads(path.read_text())))
        return
    prepare(chosen)
    study = Study(chosen.seeds, chosen.steps, chosen.rate, chosen.folder)
    carry_out(study, chosen, lambda: show(study, path))


def show(study: Study, path: Path) -> None:
    found = results(study)
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))


if __name__ == "__main__":
    main()
