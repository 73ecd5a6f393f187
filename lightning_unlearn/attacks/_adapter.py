from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lightning_unlearn.attacks._changes import Change, LowRank, Whole, added
from lightning_unlearn.attacks._held import frozen
from lightning_unlearn.attacks._places import places
from lightning_unlearn.models.layers import Matrix


@contextmanager
def attached_adapter(
    network: nn.Module, *, rank: int, seed: int, weights: Collection[Tensor] | None = None
) -> Iterator[list[Change]]:
    r"""Low-rank factors on every weight matrix but embeddings, held outside the module tree.

    .. math:: W \leftarrow W + B A

    Linear layers get the product through a forward hook, from their inputs, so that it is never formed. Other weights have
    it added whenever they are read: convolutions (flattened to one row for each output), recurrent layers, attention, fused
    experts (factors of their own for each expert, in one tensor), and bare matrices. That takes the memory of another copy
    of such weights in each pass, as LoRA on bare parameters does in PEFT.

    The network does not change: no parameter, no key of its state, no wrapper. Meanwhile its own weights are frozen.
    Factors are float32 and start as LoRA's do: one random, one zero.

    Args:
        network: Its layers are adapted, also those inside PEFT or bitsandbytes layers.
        rank: Of the factors, at most.
        seed: The same factors on every process, whatever the global random state, which stays untouched.
        weights: Only matrices that are one of these parameters, or are computed from one; defaults to all.

    Yields:
        For each weight what is added to it. Its ``params`` are the factor of inputs, ``[..., rank, in]``, and that of
        outputs, ``[..., out, rank]``.
    """
    chosen = [p for p in places(network) if p.is_reached and (weights is None or _is_of(p.matrix, weights))]
    if not chosen:
        raise ValueError(
            f"The adapter should find weight matrices to sit on. Found none in `{type(network).__name__}`. "
            'Use `Relearn(mode="full")`.'
        )
    generator = torch.Generator().manual_seed(seed)
    changes = [LowRank(place, rank=rank, generator=generator) for place in chosen]
    with frozen(network), added(changes):
        yield list(changes)


@contextmanager
def unpacked(network: nn.Module, weights: Collection[Tensor] | None = None) -> Iterator[list[Change]]:
    """Let linear layers in few bits be trained in full: to each is added a float32 matrix, zero at first.

    An optimizer without decay then does to the sum what it would do to a float32 copy of the dequantised weight, and the
    weight in few bits stays as it is.

    Args:
        network: Whose layers they are.
        weights: Only matrices that are one of these parameters, or are computed from one; defaults to all.

    Yields:
        The changes, one for each such layer.
    """
    packed = (place for place in places(network) if place.has_hook and place.matrix.is_low_bit)
    changes = [Whole(place) for place in packed if weights is None or _is_of(place.matrix, weights)]
    with added(changes):
        yield list(changes)


def _is_of(matrix: Matrix, weights: Collection[Tensor]) -> bool:
    return any(p is weight for p in matrix.parameters for weight in weights)
