"""What is kept of the observations of a fit, and what of them is logged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lightning_unlearn.observation import Observation


def key_of(observation: Observation) -> tuple[object, ...]:
    """What an observation is of; of two with one key the later one counts."""
    o = observation
    return o.subject, o.step, o.attack, o.point, o.split, o.metric


def merged(before: Iterable[Observation], now: Iterable[Observation]) -> list[Observation]:
    """All observations, in the order they were made, each of those made again in its last version."""
    found: dict[tuple[object, ...], Observation] = {}
    for observation in [*before, *now]:
        found.pop(key_of(observation), None)
        found[key_of(observation)] = observation
    return list(found.values())


def without_old_scores(observations: Iterable[Observation]) -> list[Observation]:
    """Scores of examples are kept of the original and the control; of the model that unlearns, by its last check only."""
    return [o if o.subject != "unlearned" else replace(o, scores=[], entities=[]) for o in observations]


def at_most_known(observations: Sequence[Observation]) -> dict[str, Tensor]:
    """What is logged of one attack: values at its point of most knowledge of the forget split, metric by metric."""
    values: dict[str, Tensor] = {}
    for metric in dict.fromkeys(o.metric for o in observations):
        of_metric = [o for o in observations if o.metric == metric]
        point = _worst_point(of_metric)
        for o in (o for o in of_metric if o.point == point):
            split = "" if o.split == "forget" else f"{o.split}_"
            values[f"recovery/{o.attack}/{split}{metric}"] = torch.tensor(o.value)
    return values


def _worst_point(of_metric: Sequence[Observation]) -> int:
    """The point at which the forget split is known best; of an audit that leaves that split out, the last."""
    forget = [o for o in of_metric if o.split == "forget"]
    if not forget:
        return of_metric[-1].point
    return max(forget, key=lambda o: o.value if o.higher_means_known else -o.value).point
