"""Which observations of a fit are kept, and which values of them are logged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lightning_unlearn.observation import Observation

MOST_ENTITIES = 200
"""Of how many entities an earlier look keeps a mean: of the first ones. Reports and checkpoints carry every look."""


def key_of(observation: Observation) -> tuple[object, ...]:
    """What identifies an observation. Of two with the same key the later one counts."""
    o = observation
    return o.subject, o.step, o.attack, o.point, o.split, o.metric, o.layer


def merged(before: Iterable[Observation], now: Iterable[Observation]) -> list[Observation]:
    """All observations in the order they were made. One that was made again replaces the older one."""
    by_key: dict[tuple[object, ...], Observation] = {}
    for observation in [*before, *now]:
        by_key.pop(key_of(observation), None)  # or it would keep the place of the older one
        by_key[key_of(observation)] = observation
    return list(by_key.values())


def without_old_scores(observations: Iterable[Observation], step: int) -> list[Observation]:
    """Drop the scores of single examples of the unlearned model before ``step``: only its last check keeps them.

    Those of the original and of the control are kept. Otherwise reports and checkpoints would grow with every check. Of the
    forget set, without an attack, one mean for each entity stays, so that it can be seen when each was forgotten.
    """
    return [o if o.subject != "unlearned" or o.step == step else _without_scores(o) for o in observations]


def _without_scores(observation: Observation) -> Observation:
    means = _small_means(observation) if _is_followed(observation) else {}
    return replace(observation, scores=[], entities=[], examples=[], texts=[], by_entity=means)


def _is_followed(o: Observation) -> bool:
    return o.split == "forget" and not o.attacked and not o.layer and o.interval is None


def _small_means(observation: Observation) -> dict[str, float]:
    """With four digits: they are for a curve."""
    first = list(observation.entity_means.items())[:MOST_ENTITIES]
    return {entity: float(f"{mean:.4g}") for entity, mean in first}


def at_most_known(observations: Sequence[Observation]) -> dict[str, Tensor]:
    """Values to log of one attack: for each metric, those at the point where the forget split is known best."""
    values: dict[str, Tensor] = {}
    for metric in dict.fromkeys(o.metric for o in observations):
        of_metric = [o for o in observations if o.metric == metric]
        point = _worst_point(of_metric)
        for o in (o for o in of_metric if o.point == point):
            values[f"recovery/{o.attack}/{logged_as(o.split, metric, o.layer)}"] = torch.tensor(
                o.value, dtype=torch.float32
            )
    return values


def logged_as(split: str, metric: str, layer: str = "") -> str:
    """The last part of the key under which a metric of a split, read at a layer, is logged."""
    name = metric if split == "forget" else f"{split}_{metric}"
    return f"{name}/{layer}" if layer else name


def _worst_point(of_metric: Sequence[Observation]) -> float:
    """The point at which the forget split is known best; the last point, if the audit does not use that split."""
    forget = [o for o in of_metric if o.split == "forget"]
    if not forget:
        return of_metric[-1].point
    return max(forget, key=lambda o: o.value if o.higher_means_known else -o.value).point
