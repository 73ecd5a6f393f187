from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

_ACTIVE = 1e-6


@dataclass(frozen=True)
class LatentTargets:
    """Where :class:`EncodedMatch` steers to, and away from, in latents that were chosen.

    Args:
        chosen: Numbers of the chosen latents, ``[S]`` int64.
        unknown: Mean latents of entities that the network does not know, ``[S]``.
        known: Mean latents of entities that it knows, ``[S]``.
        scale: What counts as a distance of one in each, ``[S]``, positive.
    """

    chosen: Tensor
    unknown: Tensor
    known: Tensor
    scale: Tensor


def find_targets(
    known: Mapping[str, Tensor],
    unknown: Mapping[str, Tensor],
    neutral: Tensor | None = None,
    count: int | None = None,
    activity: float = 0.02,
) -> LatentTargets:
    r"""Choose latents that tell known from unknown entities, and find their means.

    A latent's separation score in one type of entity is :math:`f^\mathrm{known} - f^\mathrm{unknown}`, where :math:`f` is
    the share of states in which the latent is above 1e-6. Known-latents are ranked by the smallest score over all types,
    unknown-latents by the smallest of its negative. A latent that is active in more than the share ``activity`` of neutral
    states is left out. The scale is the standard deviation over all known and unknown states; 1 where a latent is constant.

    Args:
        known: Latents ``[n, M]`` of known entities, by type of entity.
        unknown: Latents of unknown ones, of the same types.
        neutral: Latents of ordinary text.
        count: How many known-latents, and how many unknown-latents, to choose. ``None``, the default, takes all latents:
            for encoders whose latents are not sparse, such as :class:`Identity` and :class:`PCA`.
        activity: See above.

    Raises:
        ValueError: If the types differ, or fewer than ``count`` latents are left.

    Example:
        >>> known, unknown = torch.tensor([[1.0, 0.0, 2.0]]), torch.tensor([[0.0, 3.0, 2.0]])
        >>> find_targets({"city": known}, {"city": unknown}, count=1).chosen
        tensor([0, 1])

    References:
        Ferrando et al., `Do I Know This Entity? <https://arxiv.org/abs/2411.14257>`_, 2024, section 4: the score and the
        filter.
    """
    if known.keys() != unknown.keys() or not known:
        raise ValueError(
            "`known` and `unknown` should have the same types of entities. Found "
            f"{', '.join(sorted(known)) or 'none'}, and {', '.join(sorted(unknown)) or 'none'}."
        )
    every_known, every_unknown = torch.cat(list(known.values())), torch.cat(list(unknown.values()))
    chosen = torch.arange(every_known.shape[1], device=every_known.device)
    if count is not None:
        chosen = _separating(known, unknown, neutral, count, activity)
    known_states, unknown_states = every_known[:, chosen], every_unknown[:, chosen]
    spread = torch.cat([known_states, unknown_states]).std(0, correction=0)
    scale = torch.where(spread > _ACTIVE, spread, torch.ones_like(spread))
    return LatentTargets(chosen, unknown_states.mean(0), known_states.mean(0), scale)


def _separating(
    known: Mapping[str, Tensor], unknown: Mapping[str, Tensor], neutral: Tensor | None, count: int, activity: float
) -> Tensor:
    scores = torch.stack([_frequency(known[kind]) - _frequency(unknown[kind]) for kind in known])
    quiet = torch.ones_like(scores[0], dtype=torch.bool) if neutral is None else _frequency(neutral) <= activity
    if (left := int(quiet.sum())) < count:
        raise ValueError(
            f"At least `count = {count}` latents should be active in at most the share {activity} of the neutral states. "
            f"Found {left} of {len(quiet)}. Take fewer, or a larger `activity`."
        )
    lowest = torch.finfo(scores.dtype).min
    best = [torch.where(quiet, s.amin(0), lowest).argsort(descending=True, stable=True) for s in (scores, -scores)]
    chosen: Tensor = torch.cat([order[:count] for order in best]).unique()
    return chosen


def _frequency(latents: Tensor) -> Tensor:
    share: Tensor = (latents > _ACTIVE).to(torch.promote_types(latents.dtype, torch.float32)).mean(0)
    return share
