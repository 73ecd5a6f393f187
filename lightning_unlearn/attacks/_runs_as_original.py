from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.attacks._knows_original import KnowsOriginal
from lightning_unlearn.attacks._perturbed import restored
from lightning_unlearn.runtime import drop_copies, local, on_every_rank, tensor_checksum
from lightning_unlearn.runtime._kept_tensors import without_repeats


class _Hashes:
    """Of a tensor, in its own precision and in those to which a trainer may convert it after a look before restore."""

    def __init__(self, tensor: Tensor) -> None:
        self._own = tensor.dtype
        halves = (torch.bfloat16, torch.float16) if self._own in (torch.float32, torch.float64) else ()
        self._in = {dtype: tensor_checksum(tensor.detach().to(dtype)) for dtype in (self._own, *halves)}

    def are_of(self, tensor: Tensor) -> bool:
        """Whether ``tensor`` is the same, in the precision that it has now."""
        now = tensor.detach() if tensor.dtype in self._in else tensor.detach().to(self._own)
        return tensor_checksum(now) == self._in[now.dtype]


class RunsAsOriginal(KnowsOriginal):
    """What an attack or an audit is, too, if it runs the network with the weights of the original for a while.

    Args:
        original: Weights of the original, where no fit shows it: a Lightning checkpoint, a ``.safetensors`` file, or a
            Hugging Face folder.
    """

    def __init__(self, original: str | None = None) -> None:
        super().__init__(original)
        self._frozen: dict[int, _Hashes] = {}

    @override
    def see_original(self, network: nn.Module) -> None:
        """Keep what training changes, and hashes of the rest."""
        super().see_original(network)
        drop_copies(network)
        frozen = {id(p): _Hashes(local(p)) for p in network.parameters() if not p.requires_grad}
        self._frozen = frozen if self.original is None else {}

    def has_own_frozen_weights(self, network: nn.Module) -> bool:
        """Whether what no training changes is still the original's. Collective: every rank must call it.

        An attack may have changed it, or it belongs to a control. Only what training changes was kept, so that the original
        cannot be had here.
        """
        drop_copies(network)
        return all(
            on_every_rank(
                all(self._frozen[id(p)].are_of(local(p)) for p in network.parameters() if id(p) in self._frozen)
            )
        )

    @contextmanager
    def as_original(self, network: nn.Module) -> Iterator[None]:
        """Give ``network`` the weights of the original; afterwards it has its own again, bit for bit."""
        drop_copies(network)  # FSDP2 may still hold weights that it has gathered, which are other parameters
        with torch.inference_mode(False):
            pairs = self._pairs(network)
        with restored(network, [tensor for tensor, _ in pairs], store="cpu"):
            with torch.inference_mode(False), torch.no_grad():
                for tensor, original in pairs:
                    # `.data`: a graph of the fit that has saved the tensor stays valid, since the value comes back.
                    now, then = without_repeats(local(tensor).data, original)
                    now.copy_(then)
            yield

    def _pairs(self, network: nn.Module) -> list[tuple[Tensor, Tensor]]:
        """What has to be written to have the original: what training changes, or all that a file holds."""
        if self.original is None:
            return [(each.tensor, each.original) for each in self.moved(network)]
        tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
        return [(tensors[name], value) for name, value in self._known(network).items()]
