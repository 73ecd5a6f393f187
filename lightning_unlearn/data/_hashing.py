"""Random numbers that depend on given numbers only (seed, epoch, position), and not on what was drawn before."""

from hashlib import blake2b

import torch


def hash_of(*numbers: int) -> int:
    """A 63-bit number that depends on each of ``numbers`` and on their order.

    Example:
        >>> hash_of(1, 2) != hash_of(2, 1)
        True
    """
    digest = blake2b(repr(numbers).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def shuffled(size: int, *seeds: int) -> list[int]:
    """The numbers below ``size`` in an order that depends on ``seeds`` alone; the global generator is left as it is.

    Example:
        >>> shuffled(3, 0, 1) == shuffled(3, 0, 1), sorted(shuffled(3, 0, 1))
        (True, [0, 1, 2])
    """
    # Hashed together, not added: seed 0 in epoch 1 and seed 1 in epoch 0 should give unrelated permutations.
    generator = torch.Generator().manual_seed(hash_of(*seeds))
    return torch.randperm(size, generator=generator).tolist()
