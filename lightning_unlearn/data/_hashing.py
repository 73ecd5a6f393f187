"""Orders that depend on given numbers only (seed, epoch), and not on what was drawn before."""

import torch

from lightning_unlearn.runtime import hash_of


def shuffled(size: int, *seeds: int) -> list[int]:
    """The numbers below ``size`` in an order that depends on ``seeds`` alone; the global generator is left as it is.

    Example:
        >>> shuffled(3, 0, 1) == shuffled(3, 0, 1), sorted(shuffled(3, 0, 1))
        (True, [0, 1, 2])
    """
    # Hashed together, not added: seed 0 in epoch 1 and seed 1 in epoch 0 should give unrelated permutations.
    generator = torch.Generator().manual_seed(hash_of(*seeds))
    return torch.randperm(size, generator=generator).tolist()
