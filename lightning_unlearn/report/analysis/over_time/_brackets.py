"""Between which other models does this one stand? Specialised, joint and sequential training as brackets of utility."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lightning_unlearn.observation import Observation
from lightning_unlearn.report.analysis.over_time._transfer import _last


@dataclass(frozen=True)
class Bracket:
    """A split of this model beside reference models.

    Args:
        split: The split.
        value: This model's level.
        references: Levels of the reference models, by name.
        place: ``(value - sequential) / (joint - sequential)``: 0 as bad as training without any care for the old, 1 as good
            as training on all at once. ``None`` if one of the two is missing, or they are equal.
    """

    split: str
    value: float
    references: dict[str, float]
    place: float | None


def brackets(
    observations: Sequence[Observation], references: Mapping[str, Sequence[Observation]], metric: str
) -> list[Bracket]:
    """Compare the unlearned model with models that were trained in another way, on each split that both were asked.

    Args:
        observations: Of this run.
        references: Observations of other models, by name: ``specialised`` (trained on this split alone), ``joint`` (on all
            data at once) and ``sequential`` (on one after the other, without care for the old). Other names are shown, too.
            The last of each without an attack counts.
        metric: What was measured.

    Example:
        >>> def of(value):
        ...     return [Observation("p", "retain", value)]
        >>> brackets(of(0.75), {"joint": of(1.0), "sequential": of(0.5)}, "p")
        [Bracket(split='retain', value=0.75, references={'joint': 1.0, 'sequential': 0.5}, place=0.5)]

    References:
        `Continual Learning Medical Foundation Model <https://arxiv.org/abs/2303.06580>`_, for the three points of reference.
        From its abstract; the place between them is ours.
    """
    found = []
    for split in dict.fromkeys(o.split for o in observations if o.metric == metric and not o.layer):
        own = _last(observations, metric, split, "unlearned")
        levels = {name: _level(of_other, metric, split) for name, of_other in references.items()}
        known = {name: level for name, level in levels.items() if level is not None}
        if own is not None and known:
            found.append(Bracket(split, own.estimate, known, _place(own.estimate, known)))
    return found


def _level(observations: Sequence[Observation], metric: str, split: str) -> float | None:
    # Whatever a report called the other model: a reference run has no forgetting of its own, so it may be an "original".
    wanted = [o for o in observations if (o.metric, o.split, o.layer, o.attacked) == (metric, split, "", False)]
    return wanted[-1].estimate if wanted else None


def _place(value: float, levels: Mapping[str, float]) -> float | None:
    low, high = levels.get("sequential"), levels.get("joint")
    if low is None or high is None or low == high:
        return None
    return (value - low) / (high - low)
