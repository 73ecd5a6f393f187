from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from typing_extensions import override

from lightning_unlearn.models.layers import is_low_bit, plain_name
from lightning_unlearn.references import FrozenCopy, copied
from lightning_unlearn.runtime import drop_copies, local, on_every_rank, own_rank, tensor_checksum


class CopyBeforeRestore(FrozenCopy):
    """A copy of what is trained, and of frozen weights that a checkpoint is about to overwrite: the fit may have moved them.

    Args:
        saved: The weights in the checkpoint, as far as they are known. What they leave as it is, is not copied.
    """

    def __init__(self, saved: Mapping[str, Any]) -> None:
        super().__init__(on_cpu=True)
        self._saved = saved

    @override
    def attach(self, network: nn.Module) -> None:
        super().attach(network)
        overwritten = {id(p) for name, p in _frozen(network) if not _is_same(p, self._saved.get(name))}
        frozen = copied(network, lambda tensor: id(tensor) in overwritten, on_cpu=True)
        self._originals += frozen
        self._frozen, self._saved = {id(original) for original in frozen}, {}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        # Of shards that were cut in another way, all copies are held: those of weights that did not move are not needed.
        self._originals = [o for o in self._originals if id(o) not in self._frozen or not _is_same(o.now(), o.value)]


def frozen_state(module: nn.Module) -> dict[str, Any]:
    """Hashes of the frozen weights of the original, by rank; once if they are replicas. Collective."""
    drop_copies(module)
    hashes = on_every_rank({plain_name(name): _hash(p) for name, p in _frozen(module)})
    return {"ranks": hashes[:1] if all(h == hashes[0] for h in hashes) else hashes, "sharded": _is_sharded(module)}


def moved_since(module: nn.Module, state: Mapping[str, Any]) -> list[dict[str, int]]:
    """By rank, the hashes of what was frozen in the original, where weights have another one now. Collective.

    None, if shards were cut in another way: hashes cannot be compared.
    """
    drop_copies(module)
    ranks, world_size = state.get("ranks", []), len(on_every_rank(None))
    if len(ranks) not in (1, world_size) or state["sharded"] != _is_sharded(module):
        return [{} for _ in range(world_size)]
    now = {plain_name(name): p for name, p in module.named_parameters()}
    own = ranks[own_rank()] if len(ranks) > 1 else ranks[0]
    return on_every_rank({path: h for path, h in own.items() if path not in now or _hash(now[path]) != h})


def _frozen(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Frozen weights that could be trained: not those in few bits."""
    for name, p in module.named_parameters():
        if not p.requires_grad and p.is_floating_point() and not is_low_bit(local(p)):
            yield name, p


def _hash(parameter: Tensor) -> int:
    return tensor_checksum(local(parameter).detach())


def _is_same(tensor: Tensor, saved: Any) -> bool:
    if not isinstance(saved, Tensor) or isinstance(tensor, DTensor) or isinstance(saved, DTensor):
        return False
    return tensor.dtype == saved.dtype and torch.equal(tensor.detach().cpu(), saved.detach().cpu())


def _is_sharded(module: nn.Module) -> bool:
    return any(isinstance(p, DTensor) for p in module.parameters())
