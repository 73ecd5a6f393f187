"""Which retain row goes with which forget row."""

from __future__ import annotations

from typing import Literal

import torch

Pairing = Literal["random", "cyclic", "sequential"]
"""Which retain rows go with which forget rows: see :class:`~lightning_unlearn.ForgetRetainData`."""


def forget_order(pairing: Pairing, *, forget: int, retain: int, seed: int, epoch: int) -> list[int]:
    """Forget rows of one epoch, in the order they are visited; a pure function of its arguments.

    Args:
        pairing: ``"random"``: every forget row once, shuffled anew. ``"sequential"``: every forget row once, in order.
            ``"cyclic"``: in order, again and again until every retain row had its turn too.
        forget: Number of forget rows, ``F``.
        retain: Number of retain rows, ``R``.
        seed: Of the shuffling.
        epoch: Of the shuffling.

    Returns:
        ``F`` indices; ``max(F, R)`` of them if cyclic.

    Example:
        >>> forget_order("cyclic", forget=2, retain=5, seed=0, epoch=0)
        [0, 1, 0, 1, 0]
    """
    if pairing == "random":
        return _shuffled(forget, seed, 2 * epoch)
    return [i % forget for i in range(_length(pairing, forget, retain))]


def retain_order(pairing: Pairing, *, forget: int, retain: int, seed: int, epoch: int) -> list[int]:
    """The retain row that goes with each row of :func:`forget_order`.

    ``"random"`` draws a fresh sample of retain rows each epoch, without replacement while there are enough of them;
    ``"sequential"`` takes the first ``F``; ``"cyclic"`` goes through all.

    Example:
        >>> retain_order("sequential", forget=2, retain=5, seed=0, epoch=0)
        [0, 1]
    """
    if pairing == "random":
        draws = -(-forget // retain)
        rows = [i for draw in range(draws) for i in _shuffled(retain, seed, 2 * epoch + 1, draw)]
        return rows[:forget]
    return [i % retain for i in range(_length(pairing, forget, retain))]


def _length(pairing: Pairing, forget: int, retain: int) -> int:
    return max(forget, retain) if pairing == "cyclic" else forget


def _shuffled(size: int, *seeds: int) -> list[int]:
    # Mixed as text: neighbouring seeds and epochs give unrelated permutations.
    generator = torch.Generator().manual_seed(hash_of(*seeds))
    return torch.randperm(size, generator=generator).tolist()


def hash_of(*numbers: int) -> int:
    """A 63-bit number that depends on each of ``numbers`` and on their order.

    Example:
        >>> hash_of(1, 2) != hash_of(2, 1)
        True
    """
    from hashlib import blake2b

    digest = blake2b(repr(numbers).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
