"""Who tries to bring it back. See `robustness.py` for whom methods know."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

import lightning_unlearn
from lightning_unlearn import CrossEntropy, PackedCausalLMReadout
from lightning_unlearn.attacks import Attack
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.metrics import AnswerProbability
from lightning_unlearn.runtime import eval_without_grad
from robustness_parts._setting import Rows, Setting, World

RATES = (3e-5, 1e-4, 3e-4, 1e-3)
Curve = Mapping[str, list[float]]
READOUT = PackedCausalLMReadout()


@dataclass(frozen=True)
class Judge:
    """An attack, with what it trains on.

    Args:
        attack: Name of a class of the package.
        arguments: Its arguments.
        rows: A field of :class:`World`.
    """

    attack: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    rows: str = "forget"

    @property
    def exists(self) -> bool:
        """Whether this version of the package has such an attack."""
        return hasattr(lightning_unlearn, self.attack)

    def made(self) -> Attack:
        """The attack."""
        attack: Attack = getattr(lightning_unlearn, self.attack)(**self.arguments)
        return attack


def relearn(rows: str, mode: str, rate: float, steps: int) -> Judge:
    return Judge("Relearn", {"steps": steps, "lr": rate, "mode": mode}, rows)


def _relearning(rates: Mapping[str, tuple[float, ...]], steps: int) -> dict[str, Judge]:
    return {
        f"relearn {mode} {rate:g} on {rows}": relearn(rows, mode, rate, steps)
        for rows, chosen in rates.items()
        for mode in ("full", "adapter")
        for rate in chosen
    }


def _to_100_steps(*rates: float) -> dict[str, Judge]:
    return {f"relearn full {rate:g} on forget, 100 steps": relearn("forget", "full", rate, 100) for rate in rates}


def _quantised() -> dict[str, Judge]:
    return {
        "int8": Judge("Quantize", {"bits": 8}),
        "int4, groups of 32": Judge("Quantize", {"bits": 4, "group_size": 32}),
        "int4, groups of 128": Judge("Quantize", {"bits": 4, "group_size": 128}),
        "nf4": Judge("Quantize", {"bits": 4, "codebook": "nf4"}),
    }


def _pruned() -> dict[str, Judge]:
    return {f"prune {share:g}": Judge("Prune", {"fraction": share}) for share in (0.1, 0.3)}


EVERYTHING = dict.fromkeys(("forget", "paraphrase", "half", "benign"), RATES)
PANELS: dict[str, dict[str, Judge]] = {
    "whole": {**_relearning(EVERYTHING, 100), **_quantised(), **_pruned()},
    "middle": {
        **_relearning({"forget": RATES[1:], "paraphrase": (1e-3,), "half": (1e-3,), "benign": (1e-3,)}, 20),
        **_to_100_steps(3e-4, 1e-3),
        **_quantised(),
        **_pruned(),
    },
    # Where all weights, and then adapters, learn fastest and begin to break down.
    "beyond": _relearning(dict.fromkeys(EVERYTHING, (3e-3, 1e-2)), 100),
    # Beside those of `tofu_parts/_settings.py`: 20 steps, and of most texts one rate, since a step of SmolLM2 takes seconds.
    "beside": {
        "relearn full 0.001 on forget": relearn("forget", "full", 1e-3, 20),
        "relearn adapter 0.0001 on forget": relearn("forget", "adapter", 1e-4, 20),
        **_relearning({"paraphrase": (1e-4,), "half": (1e-4,), "benign": (1e-4,)}, 20),
        **_quantised(),
        **_pruned(),
    },
    "cheap": {"relearn full 0.001 on forget": relearn("forget", "full", 1e-3, 20)},
}


def curve(network: nn.Module, judge: Judge, setting: Setting, world: World) -> Curve:
    """Probability of each forgotten answer at each point of an attack. The network is left as it was."""
    batches = list(setting.batches(getattr(world, judge.rows)))
    rows = list(setting.batches(world.forget, size=2 * setting.batch[1]))
    loss = CrossEntropy()
    attack = judge.made()
    with (
        setting.mixed(),
        attack(
            network,
            batches=batches if attack.needs_data else (),
            loss=lambda batch: loss(READOUT(network, batch)),
            engine=GradientEngine(network),
        ) as points,
    ):
        return {str(point): probabilities(network, rows) for point in points}  # as JSON has them


def probabilities(network: nn.Module, batches: Iterable[Any]) -> list[float]:
    """Probability of each answer."""
    metric = AnswerProbability()
    with eval_without_grad(network):
        found = [metric.scores_of(READOUT(network, batch)) for batch in batches]
    return [round(value, 6) for value in torch.cat(found).tolist()]


def known(network: nn.Module, setting: Setting, rows: Rows) -> list[float]:
    """Probability of each answer of these rows."""
    with setting.mixed():
        return probabilities(network, setting.batches(rows, size=2 * setting.batch[1]))
