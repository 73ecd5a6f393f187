from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_unlearn.data import Probe
from lightning_unlearn.observation import Observation


def numbered_observation(
    split: str, probe: Probe, metric: str, by_number: Mapping[int, float], **about: Any
) -> Observation:
    """One observation of the mean of scores that not every example has: it says which have.

    Args:
        split: Name of the probe.
        probe: What was asked.
        metric: Name of the metric.
        by_number: Scores by the number of their example in the data; at least one.
        about: ``higher_means_known``, ``bounds`` and ``layer``.
    """
    numbers = sorted(by_number)
    scores = [by_number[number] for number in numbers]
    entities = [probe.entities[number] for number in numbers] if len(probe.entities) == probe.size else []
    examples = [] if numbers == list(range(len(numbers))) else numbers
    value = sum(scores) / len(scores)
    return Observation(metric, split, value, scores=scores, entities=entities, examples=examples, **about)
