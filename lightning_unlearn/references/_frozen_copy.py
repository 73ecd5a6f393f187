from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from typing_extensions import override

from lightning_unlearn.prediction import Likelihood, Prediction
from lightning_unlearn.readouts import Readout
from lightning_unlearn.references._base import Reference, refuse_other_kind
from lightning_unlearn.references._original import Original, copied, copy_of, moves
from lightning_unlearn.runtime import (
    clean_weights,
    drop_copies,
    eval_without_grad,
    on_every_rank,
    own_rank,
    uninterrupted,
)


class FrozenCopy(Reference):
    """The original model is a copy of the weights that training changes, swapped in for one forward pass.

    Only trainable parameters and floating-point buffers are copied, so if little is trained, the copy is small. There is
    no second module: the same network runs with other values, so it works under DDP, and under FSDP2 shard by shard.

    A parameter that is unfrozen or added during the fit is copied before its first step, a frozen one before it is edited.

    A resumed fit takes the copy before the checkpoint is restored. Checkpoints hold a hash of each copied parameter, by
    which a resumed fit knows whether these are the weights of the original, and the copies of parameters that joined
    during the fit.

    Args:
        on_cpu: Keep the copy in main memory; slower, but the device holds the weights only once.

    Raises:
        ValueError: If nothing is trainable; when a fit is resumed, if the weights before the checkpoint are not those of
            the original; during the fit, if a parameter was replaced by one of another shape.
    """

    def __init__(self, on_cpu: bool = False) -> None:
        self.on_cpu = on_cpu
        self.start_anew()

    @override
    def start_anew(self) -> None:
        self._originals: list[Original] = []
        self._joined: set[str] = set()

    @override
    def attach(self, network: nn.Module) -> None:
        if network is not getattr(self, "network", None):
            self.start_anew()
        super().attach(network)
        drop_copies(network)  # or the copies would be of weights that FSDP2 has gathered
        before = self._held()
        # What was trainable earlier in this fit is copied too: a callback may have frozen it for some epochs.
        self._originals = copied(network, lambda t: moves(t) or id(t) in before, on_cpu=self.on_cpu)
        if before:
            self._joined |= {o.path for o in self._originals if o.is_parameter and id(o.tensor()) not in before}
        if not any(original.is_parameter for original in self._originals):
            raise ValueError(
                "`FrozenCopy` should be attached to a network with trainable parameters. Found none: is the network built "
                "later, in `configure_model`? Build it in `__init__`, or use LoRA with `AdapterDisabled()`."
            )

    @override
    def join(self) -> None:
        """Copy parameters that were unfrozen or added since: they have not moved yet."""
        self._join(moves)

    @override
    def keep(self, parameter: nn.Parameter) -> None:
        """Copy it, also if it is frozen."""
        drop_copies(self.network)  # or FSDP2 may have a gathered weight in its place
        self._join(lambda tensor: tensor is parameter)

    def _join(self, wanted: Callable[[Tensor], bool]) -> None:
        before = self._held()

        def is_new(tensor: Tensor) -> bool:
            return wanted(tensor) and id(tensor) not in before and tensor.is_floating_point()

        if any(is_new(t) for t in (*self.network.parameters(), *self.network.buffers())):
            drop_copies(self.network)
            with clean_weights(self.network):
                joined = copied(self.network, is_new, on_cpu=self.on_cpu)
            self._originals += joined
            self._joined |= {o.path for o in joined if o.is_parameter}

    @override
    def __call__(self, readout: Readout, batch: Any) -> Likelihood:
        # Resharded first: a weight that FSDP2 still holds gathered would hide what is written into its shards.
        drop_copies(self.network)
        self.join()
        # One forward pass is short enough to wait for: Ctrl-C inside would leave the fit with the original's weights.
        with uninterrupted(), self._swapped(), eval_without_grad(self.network):
            return self._held_apart(readout(self.network, batch))

    @override
    def state_dict(self) -> dict[str, Any]:
        hashes = on_every_rank(self._hashes())
        if all(h == hashes[0] for h in hashes):
            hashes = hashes[:1]  # replicas
        joined: list[Any] = [{} for _ in hashes]
        if self._joined:
            held = {o.path: o.value.cpu() for o in self._originals if o.path in self._joined}
            joined = on_every_rank(held) if len(hashes) > 1 else [held]
        ranks = [{"hashes": h, "joined": j} for h, j in zip(hashes, joined, strict=True)]
        return {"ranks": ranks, "sharded": self._is_sharded()}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        refuse_other_kind(self, state, "ranks")
        hashes, ranks = on_every_rank(self._hashes()), state["ranks"]
        if state["sharded"] == self._is_sharded() and len(ranks) in (1, len(hashes)):
            ranks = ranks if len(ranks) > 1 else ranks * len(hashes)
            # On every rank the same question, about all ranks: they raise together.
            expected = [(path, h, now) for r, now in zip(ranks, hashes, strict=True) for path, h in r["hashes"].items()]
            joined = {path for r in ranks for path in r["joined"]}
            _refuse_others(sorted({path for path, h, now in expected if path not in joined and now.get(path) != h}))
            self._take_over(ranks[own_rank()])
        else:  # shards were cut in another way: hashes cannot be compared
            _refuse_others(sorted({path for r in ranks for path in r["joined"]}))

    def _take_over(self, saved: dict[str, Any]) -> None:
        """Hold what the interrupted run held. A parameter that is frozen there is what the checkpoint has restored."""
        kept = saved["hashes"].keys() - saved["joined"].keys()
        joined = [copy_of(self.network, path, v, on_cpu=self.on_cpu) for path, v in saved["joined"].items()]
        _refuse_others([path for path, o in zip(saved["joined"], joined, strict=True) if o is None])
        self._originals = [
            *(o for o in self._originals if not o.is_parameter or o.path in kept),
            *(o for o in joined if o is not None),
        ]
        self._joined = set(saved["joined"])

    def _held_apart(self, likelihood: Likelihood) -> Likelihood:
        """Logits that are put off wait for the head's weight, which is not the original's any more by then: its copy is."""
        if not isinstance(likelihood, Prediction) or (logits := likelihood.put_off) is None:
            return likelihood
        copies = {id(o.found()): o.value for o in self._originals}
        weight, bias = (copies.get(id(t), t) for t in (logits.weight, logits.bias))
        if weight is None or weight.device != logits.device:  # the copy is in main memory
            return replace(likelihood, logits=logits.whole())
        return replace(likelihood, logits=logits.of(logits.hidden, weight, bias))

    def _held(self) -> set[int]:
        return {id(original.found()) for original in self._originals}

    def _hashes(self) -> dict[str, int]:
        return {o.path: o.checksum() for o in self._originals if o.is_parameter}

    def _is_sharded(self) -> bool:
        return any(isinstance(o.tensor(), DTensor) for o in self._originals)

    @contextmanager
    def _swapped(self) -> Iterator[None]:
        # Values are exchanged in place: compiled graphs, tied weights and shards all stay valid.
        with torch.no_grad():
            current = [original.now().clone() for original in self._originals]
        try:
            with torch.no_grad():
                for original, now in zip(self._originals, current, strict=True):
                    if not self.on_cpu:  # Lightning may have moved the network to its device since `attach`
                        original.value = original.value.to(now.device)
                    original.now().copy_(original.value)
            yield
        finally:
            drop_copies(self.network)
            with torch.no_grad():
                for original, now in zip(self._originals, current, strict=True):
                    original.now().copy_(now)


def _refuse_others(paths: list[str]) -> None:
    if paths:
        raise ValueError(
            "A resumed fit should give `FrozenCopy` the weights that the interrupted one started from, before the "
            f"checkpoint is restored. Found others, or none, in {len(paths)} parameters, `{paths[0]}` first. Load them in "
            "`__init__`, `setup` or `configure_model`, not in a later hook, and seed what starts at random. Or use "
            "`CachedLogLikelihood()`, whose values are in the checkpoint, or LoRA with `AdapterDisabled()`."
        )
