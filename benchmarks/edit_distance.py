"""How near each edit comes to training again without the forget data: a convex model, and a small network.

    python benchmarks/edit_distance.py --seeds 0 1 2 --output benchmarks/results/edit_distance.json

A few examples of 200 with wrong labels must go. Weights are compared in the convex model, where training ends at one point;
of the network, trained again from the same start, predictions count. Distances are relative to that of no edit, 1. CPU,
float64, a few seconds a seed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_unlearn.edits import (
    Dampen,
    DampenUnlabelled,
    Distance,
    Edit,
    NegateLearnedVector,
    NewtonInfluence,
    OneStepAscent,
    ProjectNeurons,
    ResetNeurons,
    SignAscent,
    distance_to_retrained,
)
from lightning_unlearn.readouts import ClassificationReadout

DECAY = 1e-2
FEATURES, CLASSES = 6, 3
EDITS: dict[str, Callable[[], Edit | None]] = {
    "no edit": lambda: None,
    "NewtonInfluence": lambda: NewtonInfluence(decay=DECAY),
    "OneStepAscent(lr=0.5)": lambda: OneStepAscent(lr=0.5),
    "OneStepAscent(lr=2)": lambda: OneStepAscent(lr=2.0),
    "OneStepAscent(lr=8)": lambda: OneStepAscent(lr=8.0),
    "SignAscent(lr=1e-3), as published": SignAscent,
    "SignAscent(lr=1e-2)": lambda: SignAscent(lr=1e-2),
    "Dampen(alpha=2)": lambda: Dampen(alpha=2.0),
    "Dampen(alpha=10), as published": Dampen,
    "DampenUnlabelled(alpha=2)": lambda: DampenUnlabelled(alpha=2.0),
    "NegateLearnedVector": lambda: NegateLearnedVector(steps=20, lr=1e-2),
    "ResetNeurons": ResetNeurons,
    "ProjectNeurons": lambda: ProjectNeurons("*"),
}


@dataclass
class Retrained:
    """A network, and the same trained without the forget data.

    Args:
        original: Trained on everything.
        retrained: Trained on retain data alone.
        forget: Batches of what must go.
        retain: Batches of what must stay.
    """

    original: nn.Module
    retrained: nn.Module
    forget: list[Any]
    retain: list[Any]

    def distance(self, edit: Edit | None) -> Distance:
        """How far the edit arrives from the retrained network; without an edit, how far the original is."""
        network = deepcopy(self.original)
        readout = ClassificationReadout()
        if edit is not None:
            edit(network, forget=self.forget, retain=self.retain, readout=readout)
        batches = [*self.forget, *self.retain]
        return distance_to_retrained(
            network, original=self.original, retrained=self.retrained, batches=batches, readout=readout
        )


def data(seed: int, n: int) -> tuple[Tensor, Tensor]:
    """Overlapping clusters, one for each class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (n,), generator=generator)
    centres = torch.randn(CLASSES, FEATURES, generator=torch.Generator().manual_seed(99))
    return centres[labels] + 1.5 * torch.randn(n, FEATURES, generator=generator), labels


def convex(forget: int = 4, seed: int = 0) -> Retrained:
    """Multinomial regression at its optimum, to rounding: there is one retrained network."""
    return _both(lambda: nn.Linear(FEATURES, CLASSES).double(), steps=20, forget=forget, seed=seed)


def small_network(seed: int = 0) -> Retrained:
    """One hidden layer; retrained from the same start, so that weights can be compared at all."""
    return _both(
        lambda: nn.Sequential(nn.Linear(FEATURES, 16), nn.Tanh(), nn.Linear(16, CLASSES)).double(),
        steps=20,
        forget=12,
        seed=seed,
    )


def _both(build: Callable[[], nn.Module], steps: int, forget: int, seed: int) -> Retrained:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        start = build()
    inputs, labels = data(seed + 1, 200)
    inputs = inputs.double()
    # What must go has labels of its own: there is something to be unlearned.
    labels[:forget] = (labels[:forget] + 1) % CLASSES
    batches = [(inputs[i : i + 4], labels[i : i + 4]) for i in range(0, 200, 4)]
    original = fitted(start, inputs, labels, steps)
    retrained = fitted(start, inputs[forget:], labels[forget:], steps)
    return Retrained(original, retrained, batches[: forget // 4], batches[forget // 4 :])


def fitted(start: nn.Module, inputs: Tensor, labels: Tensor, steps: int) -> nn.Module:
    """A copy of a network, trained on these examples with weight decay by L-BFGS."""
    network = deepcopy(start)
    optimizer = torch.optim.LBFGS(
        network.parameters(), max_iter=20, history_size=30, tolerance_grad=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(network(inputs), labels)
        loss = loss + DECAY / 2 * sum((p**2).sum() for p in network.parameters())
        loss.backward()
        return loss

    for _ in range(steps):
        optimizer.step(closure)
    network.zero_grad()
    return network


def measured(seeds: list[int]) -> list[dict[str, Any]]:
    """A row for each problem, edit and seed."""
    rows = []
    for name, build in (("convex", convex), ("network", small_network)):
        for seed in seeds:
            problem = build(seed=seed)
            rows += [
                {"problem": name, "seed": seed, "edit": edit, **asdict(problem.distance(make()))}
                for edit, make in EDITS.items()
            ]
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Means over seeds, as Markdown."""
    lines = ["| edit | convex: weights | convex: predictions | network: predictions |", "|---|---|---|---|"]
    for edit in EDITS:
        cells = [
            mean(r[what] for r in rows if r["edit"] == edit and r["problem"] == problem)
            for problem, what in (("convex", "weights"), ("convex", "predictions"), ("network", "predictions"))
        ]
        lines.append(f"| {edit} | " + " | ".join(f"{cell:.2f}" for cell in cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    rows = measured(options.seeds)
    if options.output:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
        options.output.write_text(json.dumps({"commit": commit, "rows": rows}, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
