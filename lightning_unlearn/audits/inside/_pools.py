from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_unlearn.runtime import Misfit


@dataclass(frozen=True)
class Pools:
    """Rows that a probe is fitted to, and rows that it is judged by. No entity is in both.

    Args:
        fit: Numbers of rows.
        judged: Numbers of the others.
    """

    fit: Tensor
    judged: Tensor


def disjoint_pools(labels: Tensor, entities: Sequence[str], generator: torch.Generator) -> Pools:
    """Halve the entities of each class at random.

    Args:
        labels: The class of each row, ``[n]`` bool.
        entities: The entity of each row.
        generator: Where randomness comes from.

    Raises:
        Misfit: If a class has fewer than two entities, or an entity is of both classes.

    Example:
        >>> labels = torch.tensor([True, True, False, False])
        >>> pools = disjoint_pools(labels, ["Ada", "Bo", "Cy", "Di"], torch.Generator())
        >>> len(pools.fit), len(pools.judged)
        (2, 2)
    """
    by_class = [
        list(dict.fromkeys(name for name, label in zip(entities, labels, strict=True) if bool(label) is kind))
        for kind in (True, False)
    ]
    refuse_shared(by_class)
    fit: set[str] = set()
    for names in by_class:
        order = torch.randperm(len(names), generator=generator).tolist()
        fit |= {names[place] for place in order[: len(names) // 2]}
    belongs = torch.tensor([name in fit for name in entities])
    return Pools(belongs.nonzero()[:, 0], (~belongs).nonzero()[:, 0])


def refuse_shared(by_class: Sequence[Sequence[str]]) -> None:
    """Refuse entities that are of both classes, or fewer than two of one.

    Args:
        by_class: The different entities of each.

    Raises:
        Misfit: If they are.
    """
    if both := sorted(set(by_class[0]) & set(by_class[1])):
        raise Misfit(
            f"The two splits that a probe tells apart should be about different entities. Found `{both[0]}` in both. Give "
            "`against` a split of others."
        )
    if (fewest := min(map(len, by_class))) < 2:
        raise Misfit(
            "A probe should get at least two entities on each side: one half to be fitted to, the other to be judged by. "
            f"Found {fewest}. Give more entities, or leave `LayerProbe` out of `audits`."
        )
