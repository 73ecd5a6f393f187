"""What is measured of a network, and who tries to bring back what it has forgotten."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from robustness_parts._judges import Judge
from torch import Tensor, nn

from lightning_unlearn import CrossEntropy
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.functional.separation import places
from lightning_unlearn.runtime import eval_without_grad
from vision_parts._fit import READOUT
from vision_parts._world import World

PARTS = ("forget", "retain", "unseen", "test")
RELEARNED = "half of it"
PANEL: Mapping[str, Judge] = {
    "relearn 0.001": Judge("Relearn", {"steps": 20, "lr": 1e-3, "mode": "full"}, RELEARNED),
    "relearn 0.0003": Judge("Relearn", {"steps": 20, "lr": 3e-4, "mode": "full"}, RELEARNED),
    "recalibrate": Judge("Recalibrate", {}, "retain"),
    "int4": Judge("Quantize", {"bits": 4, "group_size": 32}, RELEARNED),
}


def known(network: nn.Module, world: World) -> dict[str, Any]:
    """Share of right answers by part, mean probability of the forgotten labels, and how well members are told apart."""
    said = {part: _log_probabilities(network, world.batches(part)) for part in PARTS}
    labels = {part: torch.cat([y for _, y in world.batches(part)]) for part in PARTS}
    right = {part: float((said[part].argmax(1) == labels[part]).float().mean()) for part in PARTS}
    likely = {part: said[part].gather(1, labels[part][:, None])[:, 0] for part in PARTS}
    membership = float(np.mean(places(likely["forget"].tolist(), likely["unseen"].tolist())))
    return {**{part: round(value, 4) for part, value in right.items()}, "membership": round(membership, 4)}


def distance(network: nn.Module, other: nn.Module, world: World, from_: nn.Module | None = None) -> float:
    """Mean Jensen-Shannon divergence of what two networks say of the forgotten and of the unseen, in nats."""
    batches = [*world.batches("forget"), *world.batches("unseen"), *world.batches("test")]
    p, q = (_log_probabilities(one, batches).double() for one in (network, other))
    mean = ((p.exp() + q.exp()) / 2).log()
    divergence = sum((one.exp() * (one - mean)).sum(1).mean() for one in (p, q)) / 2
    return round(float(divergence), 5)


def weight_distance(network: nn.Module, other: nn.Module, original: nn.Module) -> float:
    """How far the weights are from another network's, over how far the original's are."""

    def apart(one: nn.Module) -> float:
        pairs = zip(one.parameters(), other.parameters(), strict=True)
        return float(sum((p - q).double().square().sum() for p, q in pairs)) ** 0.5

    with torch.no_grad():
        return round(apart(network) / apart(original), 4)


def curve(network: nn.Module, judge: Judge, world: World) -> dict[str, float]:
    """Mean probability of the forgotten labels that the attacker does not see, at each point of an attack."""
    loss, attack = CrossEntropy(), judge.made()
    shown, judged = halves(world.batches("forget", world.setting.batch[0]))
    batches = world.batches("retain", world.setting.batch[1]) if judge.rows == "retain" else shown
    if judge.attack == "Recalibrate" and not has_statistics(network):
        return {}
    with attack(
        network,
        batches=batches if attack.needs_data else (),
        loss=lambda batch: loss(READOUT(network, batch)),
        engine=GradientEngine(network),
    ) as points:
        return {str(point): probability(network, judged) for point in points}


def probability(network: nn.Module, batches: Sequence[Any]) -> float:
    """Mean probability of the labels."""
    likely = [
        said.gather(1, y[:, None])[:, 0].exp() for x, y in batches for said in [_log_probabilities(network, [(x, y)])]
    ]
    return round(float(torch.cat(likely).mean()), 5)


def halves(batches: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """What an attacker is given, and the rest, which is judged: every other image."""
    return [(x[::2], y[::2]) for x, y in batches], [(x[1::2], y[1::2]) for x, y in batches]


def has_statistics(network: nn.Module) -> bool:
    """Whether it has norms to recalibrate."""
    return any(hasattr(layer, "running_mean") for layer in network.modules())


def _log_probabilities(network: nn.Module, batches: Sequence[Any]) -> Tensor:
    with eval_without_grad(network):
        return torch.cat([network(x).log_softmax(1) for x, _ in batches])
