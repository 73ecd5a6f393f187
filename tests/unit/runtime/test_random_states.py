"""Random numbers by seed alone, and generators that go on as if nothing had been drawn."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from lightning_unlearn.runtime import hash_of, remember_random_states, seeded


def drawn() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_inside_numbers_depend_on_the_seed_alone() -> None:
    with seeded(5):
        first = drawn()
    drawn()
    with seeded(5):
        assert drawn() == first
    with seeded(6):
        assert all(a != b for a, b in zip(drawn(), first, strict=True))


def test_afterwards_all_generators_go_on_also_after_an_error() -> None:
    put_back = remember_random_states()
    expected = [drawn(), drawn()]
    put_back()
    assert drawn() == expected[0]
    with pytest.raises(KeyError), seeded(5):
        drawn()
        raise KeyError
    assert drawn() == expected[1]


def test_large_seeds_are_taken() -> None:
    with seeded(hash_of(1, 2, 3)):
        assert 0 <= drawn()[1] < 1
