from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from lightning_unlearn.engine import GradientEngine, learning_rate, sharding_groups
from lightning_unlearn.functional.bundles import bundled
from lightning_unlearn.guards.storages import Storage
from lightning_unlearn.runtime import local

Scope = Literal["global", "module", "parameter"]


@dataclass(frozen=True)
class Layout:
    """Which parameters of an optimizer are guarded in a step, and which small ones are joined to one long vector.

    Args:
        params: All parameters of the optimizer.
        settings: The parameter group of each.
        scopes: Number of the scope of each.
        groups: Numbers of the parameters that move; those in one group are joined.
    """

    params: Sequence[Tensor]
    settings: Sequence[dict[str, object]]
    scopes: Sequence[int]
    groups: Sequence[Sequence[int]]

    @classmethod
    def of(
        cls, optimizer: torch.optim.Optimizer, scopes: Sequence[int], storage: Storage, engine: GradientEngine
    ) -> Layout:
        """Leave out the parameters that do not move: frozen ones, and those with a learning rate of 0."""
        # Asked anew in each step, since schedules and unfreezing change the answer.
        every = [(p, group) for group in optimizer.param_groups for p in group["params"]]
        params, settings = [p for p, _ in every], [group for _, group in every]
        moving = [i for i, (p, group) in enumerate(every) if p.requires_grad and learning_rate(group) != 0]
        if not storage.can_be_joined or not moving:
            return cls(params, settings, scopes, [[i] for i in moving])
        # Joined vectors must have one scope, one dtype and one device, and must be sharded alike: their products are summed
        # over one set of process groups.
        kinds = [
            (scopes[i], params[i].dtype, params[i].device, sharding_groups(params[i], engine.sharding_group))
            for i in moving
        ]
        sizes = [local(params[i]).numel() for i in moving]  # of the local shards
        together = bundled(sizes, kinds, params[moving[0]].device)
        return cls(params, settings, scopes, [[moving[j] for j in bundle] for bundle in together])

    @property
    def moving(self) -> list[int]:
        """Numbers of the parameters that move."""
        return sorted(i for group in self.groups for i in group)

    def wanted(self) -> list[list[Tensor]]:
        """The parameters that move, grouped."""
        return [[self.params[i] for i in group] for group in self.groups]


def scopes_of(module: nn.Module, params: Sequence[Tensor], scope: Scope) -> list[int]:
    """Number of each parameter's scope, from 0 on."""
    if scope == "parameter":
        return list(range(len(params)))
    owner: dict[Tensor, str] = {}
    if scope == "module":
        owner = {p: name.rpartition(".")[0] for name, p in module.named_parameters()}
    names = [owner.get(p, "") for p in params]  # a parameter outside the module falls into the scope ""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return [numbers[name] for name in names]


def added_since(optimizer: torch.optim.Optimizer, known: Sequence[Tensor], who: str) -> list[Tensor] | None:
    """All parameters of ``optimizer``, if groups were added since those in ``known``; else ``None``."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    # By identity: tensors compare element by element. Gradients are stored by position, so the old ones must stay in front.
    if len(params) < len(known) or any(a is not b for a, b in zip(params, known, strict=False)):
        raise NotImplementedError(
            f"Parameter groups should only be added to the optimizer while `{who}` guards its steps. Found that parameters "
            "were removed or changed places. Freeze them by `requires_grad`, or by a learning rate of 0."
        )
    return params if len(params) > len(known) else None
