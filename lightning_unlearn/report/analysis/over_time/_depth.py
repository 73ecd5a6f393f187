"""The published unlearning depth score, which needs a model that never knew."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lightning_unlearn.functional.depth import depth_scores
from lightning_unlearn.observation import NOT_ATTACKED, Observation, Subject

_METRIC = "depth_lost"


def unlearning_depth(observations: Sequence[Observation], attack: str = NOT_ATTACKED) -> float | None:
    """Mean unlearning depth score, with the control as the model that never knew.

    Args:
        observations: With those of :class:`KnowledgeDepth` of the model and of the control.
        attack: Under which the model is looked at, at its last point; without one by default.

    Returns:
        From 0, nothing is gone from the hidden states, to 1, gone as in the control. ``None`` without both models' scores,
        or if no layer carries anything.

    Example:
        >>> def lost(subject, value):
        ...     return Observation("depth_lost", "forget", value, scores=[value], subject=subject, layer="h.0")
        >>> unlearning_depth([lost("control", 2.0), lost("unlearned", 0.5)])
        0.25
    """
    lost, most = _by_layer(observations, "unlearned", attack), _by_layer(observations, "control", NOT_ATTACKED)
    layers = [layer for layer in most if layer in lost]
    if not layers or any(set(lost[layer]) != set(most[layer]) for layer in layers):
        return None
    numbers = sorted(most[layers[0]])
    of_lost, of_most = (
        torch.tensor([[of[layer][n] for layer in layers] for n in numbers]).double() for of in (lost, most)
    )
    scores = depth_scores(of_lost, of_most)
    known = scores[~scores.isnan()]
    return float(known.mean()) if len(known) else None


def _by_layer(observations: Sequence[Observation], subject: Subject, attack: str) -> dict[str, dict[int, float]]:
    wanted = [o for o in observations if (o.metric, o.subject, o.attack) == (_METRIC, subject, attack) and o.scores]
    return {o.layer: dict(zip(o.numbers, o.scores, strict=True)) for o in wanted}
