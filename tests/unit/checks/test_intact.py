"""A change is noticed at the block that made it, or at the next one; one hash of the weights for each block."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lightning_unlearn.checks import _intact
from lightning_unlearn.checks._intact import Intact


def change(layer: nn.Linear) -> None:
    with torch.no_grad():
        layer.weight[0, 0] += 1e-6


def test_a_change_is_blamed_on_its_block_and_the_next_ones_start_from_there() -> None:
    layer, intact = nn.Linear(2, 2), Intact()
    with intact(layer, "First"):
        pass
    with pytest.raises(RuntimeError, match="Second should leave every weight as it was"), intact(layer, "Second"):
        change(layer)
    with intact(layer, "Third"):
        pass


def test_a_change_between_two_blocks_is_noticed() -> None:
    layer, intact = nn.Linear(2, 2), Intact()
    with intact(layer, "First"):
        pass
    change(layer)
    with pytest.raises(RuntimeError, match="Second should leave"), intact(layer, "Second"):
        pass


def test_an_error_comes_through() -> None:
    layer, intact = nn.Linear(2, 2), Intact()
    with pytest.raises(ZeroDivisionError), intact(layer, "First"):
        raise ZeroDivisionError


def test_three_blocks_take_four_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[Any] = []
    monkeypatch.setattr(_intact, "checksum", lambda module: counted.append(module) or 0)
    layer, intact = nn.Linear(2, 2), Intact()
    for _ in range(3):
        with intact(layer, "It"):
            pass
    assert len(counted) == 4
