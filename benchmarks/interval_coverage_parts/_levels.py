"""Two levels: seeds of training, and entities; and what choosing the worst of several attacks does."""

from __future__ import annotations

from typing import Any

import numpy as np

from interval_coverage_parts._designs import Floats, sigmoid
from lightning_unlearn.report.analysis._held_out import held_out_worst
from lightning_unlearn.report.analysis._studentised import drawn_entities, studentised_interval
from lightning_unlearn.report.analysis._two_way import two_way_interval

ROWS = 5


def runs(seeds: int, entities: int, spread: float, generator: np.random.Generator) -> tuple[Floats, Floats]:
    """Numerators and denominators of a recovery, ``[seeds, entities]``; ``spread`` is how much seeds differ, in logits."""
    about, own = generator.normal(size=(1, entities, 1)), generator.normal(size=(1, entities, ROWS))
    by_seed = generator.normal(0, spread, (seeds, 1, 1)) + generator.normal(0, spread / 2, (seeds, entities, 1))
    full = sigmoid(2 + about + own)
    less, back = (about + own + generator.normal(0, 0.3, (seeds, entities, ROWS)) for _ in range(2))
    less, back = sigmoid(-3 + less), sigmoid(-1 + back + generator.normal(size=(1, entities, 1)) + by_seed)
    return (back - less).sum(-1), (full - less).sum(-1)


def coverage_over_seeds(
    seeds: int, entities: int, spread: float, *, studies: int, draws: int, seed: int = 0
) -> dict[str, Any]:
    """The share of studies of several seeds whose interval holds the truth about all seeds and entities."""
    generator = np.random.default_rng(seed)
    large = [np.array(runs(50, 400, spread, generator)).sum((1, 2)) for _ in range(20)]
    truth = float(np.divide(*np.sum(large, axis=0)))
    held = {"ours": 0, "two-level percentile": 0, "one seed alone": 0}
    for _ in range(studies):
        over, under = runs(seeds, entities, spread, generator)
        found = {
            "ours": two_way_interval(over, under, draws=draws),
            "two-level percentile": _percentile(over, under, draws),
            "one seed alone": studentised_interval(over[0], under[0], draws=draws),
        }
        for name, (low, high) in found.items():
            held[name] += bool(low <= truth <= high)
    shares = {name: {"held": number / studies} for name, number in held.items()}
    return {"seeds": seeds, "entities": entities, "spread": spread, "truth": round(truth, 4), **shares}


def _percentile(over: Floats, under: Floats, draws: int) -> tuple[float, float]:
    of_seeds, of_entities = (drawn_entities(number, draws, place) for place, number in enumerate(over.shape))
    ratios = ((of_seeds @ over) * of_entities).sum(1) / ((of_seeds @ under) * of_entities).sum(1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(low), float(high)


def choosing(attacks: int, entities: int, *, studies: int, draws: int, seed: int = 0) -> dict[str, Any]:
    """What the largest of equally strong attacks reads as, on the entities that chose it and on the others."""
    generator = np.random.default_rng(seed)
    names = [f"{number:03}" for number in range(entities)]
    large = np.array(_attacks(attacks, 100_000, generator)).sum((1, 2))
    truth, naive, honest, held_naive, held = float(large[0] / large[1]), [], [], 0, 0
    for study in range(studies):
        over, under = _attacks(attacks, entities, generator)
        worst = int(np.argmax(over.sum(1) / under.sum(1)))
        naive.append(over[worst].sum() / under[worst].sum())
        low, high = studentised_interval(over[worst], under[worst], draws=draws)
        held_naive += bool(low <= truth <= high)
        candidates = [dict(zip(names, zip(*pair, strict=True), strict=True)) for pair in zip(over, under, strict=True)]
        found = held_out_worst(candidates, seed=study)
        assert found is not None
        honest.append(found.totals.over.sum() / found.totals.under.sum())
        low, high = studentised_interval(found.totals.over, found.totals.under, draws=draws)
        held += bool(low <= truth <= high)
    return {
        "attacks": attacks,
        "entities": entities,
        "truth": round(truth, 4),
        "largest": {"mean": round(float(np.mean(naive)), 4), "held": held_naive / studies},
        "held out": {"mean": round(float(np.mean(honest)), 4), "held": held / studies},
    }


def _attacks(attacks: int, entities: int, generator: np.random.Generator) -> tuple[Floats, Floats]:
    about, openness = generator.normal(size=(1, entities)), generator.normal(0, 1.5, (attacks, entities))
    full, less = sigmoid(2 + about), sigmoid(-3 + about)
    back = sigmoid(-1 + about + openness)
    return back - less, np.broadcast_to(full - less, back.shape)
