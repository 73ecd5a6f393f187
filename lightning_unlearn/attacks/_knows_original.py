from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_unlearn.engine import sharded_like
from lightning_unlearn.models import load_weights
from lightning_unlearn.models.layers import starts_at_zero
from lightning_unlearn.references._original import Original, copied, moves
from lightning_unlearn.runtime import local

_FIRST_TO_SECOND = {"lora_A": "lora_B", "lora_embedding_B": "lora_embedding_A"}
"""The factor of LoRA that starts at random, and the one that starts at zero."""


class Moved(NamedTuple):
    """A tensor that training moves.

    Args:
        name: In the network.
        tensor: As it is now.
        original: What this process held of it in the original; on the CPU.
    """

    name: str
    tensor: Tensor
    original: Tensor


class KnowsOriginal:
    """What an attack or an audit is, too, if it compares with the original: it keeps what training changes, on the CPU.

    A fit shows it the original. Outside of one, and for another original, there is ``original``. A fresh LoRA adapter needs
    neither: without it the network is the original, so its second factor was zero, and the first one is left as it is.

    Args:
        original: Weights of the original: a Lightning checkpoint, a ``.safetensors`` file, or a Hugging Face folder.
    """

    def __init__(self, original: str | None = None) -> None:
        if original is not None and (not isinstance(original, str) or not original):
            raise TypeError(f"`original` should be the path of weights, as text. Found `original = {original!r}`.")
        self.original = original
        self._seen: list[Original] = []
        self._read: tuple[nn.Module, dict[str, Tensor]] | None = None

    def see_original(self, network: nn.Module) -> None:
        """Keep what training changes, unless there is a path."""
        if self.original is None:
            self._seen = copied(network, moves, on_cpu=True)

    def share_original(self, other: KnowsOriginal) -> None:
        """Keep what ``other`` was shown, unless there is a path: one copy in memory serves all."""
        if self.original is None:
            self._seen = other._seen

    def hashes(self) -> dict[str, int]:
        """Of each parameter of the original that was shown, in this process, in the precision that the network has now."""
        return {o.path: o.checksum() for o in self._seen if o.is_parameter}

    def forget_original(self) -> None:
        """Forget what was shown: it was not the original."""
        self._seen = []

    def moved(self, network: nn.Module) -> list[Moved]:
        """What training moves in ``network``, with the original of each, but for first factors of fresh LoRA adapters.

        Raises:
            ValueError: If the original of some of it is not known.
        """
        known = self._known(network)
        # What was seen to train belongs to it also while somebody has frozen it.
        tensors = [(n, t) for n, t in _tensors(network) if moves(t) or (self.original is None and n in known)]
        found = [Moved(n, t, known[n]) for n, t in tensors if n in known]
        missing = [n for n, t in tensors if n not in known and t.requires_grad]
        zero = [
            Moved(n, t, torch.zeros_like(local(t), device="cpu"))
            for n, t in tensors
            if n in missing and starts_at_zero(n)
        ]
        fresh = {m.name for m in [*found, *zero] if starts_at_zero(m.name) and not m.original.any()}
        missing = [n for n in missing if not starts_at_zero(n) and _second(n) not in fresh]
        if missing:
            raise ValueError(
                f"`{type(self).__name__}` should know the original. Found no value of {len(missing)} parameters, "
                f"`{missing[0]}` first. Run it in a fit, which shows it the original before the first step; resume a fit "
                "with the weights that it started from; or give `original`, the path of its weights."
            )
        return [m for m in [*found, *zero] if _second(m.name) not in fresh]

    def _known(self, network: nn.Module) -> dict[str, Tensor]:
        if self.original is None:
            held = {id(o.found()): o.value for o in self._seen}
            return {name: held[id(t)] for name, t in _tensors(network) if id(t) in held}
        if self._read is None or self._read[0] is not network:
            own = {
                **dict(network.named_buffers(remove_duplicate=False)),
                **dict(network.named_parameters(remove_duplicate=False)),
            }
            # By identity: a file may hold a tied weight under its other name.
            weights = {id(own[n]): value for n, value in load_weights(self.original, network).items()}
            parts = {n: (t, weights[id(t)]) for n, t in _tensors(network) if id(t) in weights}
            self._read = network, {n: local(sharded_like(v.to(t.device), t)).cpu() for n, (t, v) in parts.items()}
        return self._read[1]


def _tensors(network: nn.Module) -> Iterator[tuple[str, Any]]:
    yield from network.named_parameters()
    yield from ((name, b) for name, b in network.named_buffers() if b.is_floating_point())


def _second(name: str) -> str | None:
    """The second factor of the adapter of which ``name`` is the first; ``None`` if it is none."""
    parts = name.split(".")
    first = next((part for part in parts if part in _FIRST_TO_SECOND), None)
    return None if first is None else ".".join(_FIRST_TO_SECOND.get(part, part) for part in parts)
