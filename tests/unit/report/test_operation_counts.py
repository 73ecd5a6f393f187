"""`benchmarks/gpu_cost.py` counts the operations of attention whose keys have fewer heads than queries."""

from __future__ import annotations

import pytest
import torch
from gpu_cost_parts._meter import ATTENTION, Meter
from torch.utils.flop_counter import flop_registry

BATCH, HEADS, ROWS, KEYS, WIDTH = 2, 8, 5, 7, 4
QUERY, KEY = (BATCH, HEADS, ROWS, WIDTH), (BATCH, HEADS, KEYS, WIDTH)
GROUPED = (BATCH, 2, KEYS, WIDTH)


def _shapes(kind: object, key: tuple[int, ...]) -> list[tuple[int, ...]]:
    return [QUERY, QUERY, key, key] if "backward" in str(kind) else [QUERY, key, key]


@pytest.mark.parametrize("kind", ATTENTION, ids=str)
def test_a_key_that_serves_a_group_counts_for_each_of_its_queries(kind: object) -> None:
    plain = flop_registry[kind](*_shapes(kind, KEY))
    products = 5 if "backward" in str(kind) else 2
    assert plain == products * 2 * BATCH * HEADS * ROWS * KEYS * WIDTH
    assert ATTENTION[kind](*_shapes(kind, GROUPED)) == plain


def test_after_a_step_that_failed_nothing_is_counted_any_more() -> None:
    meter = Meter(torch.device("cpu"), warm_up=0, timed=0, seconds=0.0, counts=True, kernels=False)
    meter.start()
    torch.ones(2, 3) @ torch.ones(3, 4)
    meter.close()
    torch.ones(2, 3) @ torch.ones(3, 4)
    assert meter._flops.get_total_flops() == 2 * 2 * 3 * 4
