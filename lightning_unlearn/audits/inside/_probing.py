from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from scipy.stats import false_discovery_control
from torch import Tensor

from lightning_unlearn.audits.inside._mlps import mlp_scores
from lightning_unlearn.audits.inside._pools import Pools, disjoint_pools
from lightning_unlearn.functional.probing import (
    are_equalised,
    areas_under_curves,
    folded,
    permutation_p_values,
    resampled_areas,
    ridge_scores,
    shuffled_by_cluster,
)

_CONTROL_TASKS = 20
_RESAMPLES = 1000
_LEVEL = 0.05

ProbeVerdict = Literal["signal detected", "no signal found", "invalid: edited on probe pool"]
"""What a probe of a layer says. It never says "erased": that a probe finds nothing shows nothing of the next one."""


@dataclass(frozen=True)
class ProbedLayer:
    """What probes read off the states of one layer, on entities that they were not fitted to.

    Args:
        auc: Folded area under the curve of a linear probe, from 0.5 to 1.
        interval: A 95 % interval of it, over entities.
        mlp_auc: The same of a network with one hidden layer.
        selectivity: ``auc`` minus its mean on tasks with random labels of entities: what is read, and not just fitted.
        q_value: The share of false finds among layers that look at least as good (Benjamini-Hochberg).
        verdict: In words.
    """

    auc: float
    interval: tuple[float, float]
    mlp_auc: float
    selectivity: float
    q_value: float
    verdict: ProbeVerdict


@dataclass(frozen=True)
class ProbedLayers:
    """All layers, and what the best of them is worth.

    Args:
        layers: In order.
        p_value: How often chance gives as good a best layer: a permutation test of the largest area over all layers.
    """

    layers: list[ProbedLayer]
    p_value: float


def probe_layers(
    states: Tensor,
    labels: Tensor,
    entities: Sequence[str],
    *,
    permutations: int = 500,
    hidden: int = 64,
    seed: int = 0,
) -> ProbedLayers:
    """Fit probes on half of the entities, layer by layer, and judge them by the other half.

    The null hypothesis is that labels have nothing to do with states: labels of whole entities are shuffled among those that
    are judged, and areas are read in both directions, since a probe below chance has found something.

    If the means of the two classes are equal on the pool, closer than chance would have them, the verdict is "invalid": an
    edit has been fitted to these very rows. Fitted elsewhere, it would not have been erased there.

    Args:
        states: ``[L, n, D]``.
        labels: Class of each row, ``[n]`` bool.
        entities: Entity of each row; each is of one class.
        permutations: Shuffled labellings. The smallest p-value is one over their number plus one; few entities have few
            different ones.
        hidden: Width of the second probe's hidden layer.
        seed: Of halves, labellings and start values. Global random numbers are left alone.

    Raises:
        ValueError: If a class has fewer than two entities, or an entity is of both classes.

    Example:
        >>> labels = torch.arange(80) % 2 == 0
        >>> noise = torch.randn(1, 80, 8, generator=torch.Generator().manual_seed(0))
        >>> found = probe_layers(noise + 3 * labels[:, None], labels, list(map(str, range(80))))
        >>> found.layers[0].verdict
        'signal detected'
    """
    generator = torch.Generator().manual_seed(seed)
    pools = disjoint_pools(labels, entities, generator)
    judged, names = labels[pools.judged], [entities[row] for row in pools.judged]
    shuffled = shuffled_by_cluster(judged, names, permutations, generator)
    everywhere = shuffled_by_cluster(labels, entities, permutations, generator)
    tasks = shuffled_by_cluster(labels, entities, _CONTROL_TASKS, generator)
    scores, by_task = _linear_scores(states, torch.cat([labels[None], tasks]), pools)
    area = folded(areas_under_curves(scores, judged[None]))[0]
    p_values, largest = permutation_p_values(area, folded(areas_under_curves(scores, shuffled)))
    q_values = false_discovery_control(p_values.numpy())
    fit = mlp_scores(states[:, pools.fit], labels[pools.fit], states[:, pools.judged], hidden=hidden, seed=seed)
    by_mlp = folded(areas_under_curves(fit, judged[None]))[0]
    layers = []
    for layer, of_layer in enumerate(states):
        edited = are_equalised(of_layer[pools.judged], judged, shuffled) or are_equalised(of_layer, labels, everywhere)
        resampled = resampled_areas(scores[layer], judged, names, _RESAMPLES, generator)
        layers.append(
            ProbedLayer(
                auc=float(area[layer]),
                interval=_interval(
                    resampled, below=bool(areas_under_curves(scores[layer : layer + 1], judged[None]) < 0.5)
                ),
                mlp_auc=float(by_mlp[layer]),
                selectivity=float(area[layer]) - _mean_area(by_task[layer], tasks[:, pools.judged]),
                q_value=float(q_values[layer]),
                verdict=_verdict(float(q_values[layer]), edited),
            )
        )
    return ProbedLayers(layers, largest)


def linear_areas(states: Tensor, labels: Tensor, entities: Sequence[str], *, seed: int = 0) -> list[float]:
    """The folded areas alone, of the same probes on the same halves as in :func:`probe_layers`."""
    pools = disjoint_pools(labels, entities, torch.Generator().manual_seed(seed))
    scores, _ = _linear_scores(states, labels[None], pools)
    areas: list[float] = folded(areas_under_curves(scores, labels[pools.judged][None]))[0].tolist()
    return areas


def _linear_scores(states: Tensor, labellings: Tensor, pools: Pools) -> tuple[Tensor, list[Tensor]]:
    """Of the first labelling, ``[L, m]``; of the others, ``[T, m]`` for each layer."""
    targets = labellings[:, pools.fit].T.double()
    found = [ridge_scores(of_layer[pools.fit], targets, of_layer[pools.judged]).T for of_layer in states]
    return torch.stack([of_layer[0] for of_layer in found]), [of_layer[1:] for of_layer in found]


def _mean_area(scores: Tensor, tasks: Tensor) -> float:
    """The mean folded area over tasks, each by its own probe. A task may have one class only among those judged."""
    both = [t for t, labels in enumerate(tasks) if labels.any() and not labels.all()]
    areas = [folded(areas_under_curves(scores[t : t + 1], tasks[t : t + 1])) for t in both]
    return float(torch.cat(areas).mean()) if areas else 0.5


def _interval(areas: Tensor, below: bool) -> tuple[float, float]:
    low, high = (float(areas.quantile(q)) for q in (0.025, 0.975))
    low, high = (1 - high, 1 - low) if below else (low, high)
    return max(low, 0.5), max(high, 0.5)


def _verdict(q_value: float, edited: bool) -> ProbeVerdict:
    if edited:
        return "invalid: edited on probe pool"
    return "signal detected" if q_value <= _LEVEL else "no signal found"
