"""Work on several cores is the work of a loop, in its order, and leaves torch as it was."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from lightning_unlearn.runtime import map_in_threads


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_results_come_in_order_from_threads_that_use_one_core_each() -> None:
    both = threading.Barrier(2, timeout=30)

    def seen(i: int) -> tuple[int, int, bool]:
        if i < 2:
            both.wait()  # at once, or never
        return i, torch.get_num_threads(), torch.is_grad_enabled()

    assert map_in_threads(seen, range(5), torch.device("cpu")) == [(i, 1, False) for i in range(5)]
    assert torch.get_num_threads() == 2
    assert torch.is_grad_enabled()


def test_an_error_is_raised_and_leaves_the_number_of_threads() -> None:
    with pytest.raises(ZeroDivisionError):
        map_in_threads(lambda i: 1 / i, [1, 0], torch.device("cpu"))
    assert torch.get_num_threads() == 2


def test_other_devices_are_not_given_threads() -> None:
    seen = map_in_threads(lambda i: (i, threading.current_thread()), range(2), torch.device("meta"))
    assert seen == [(i, threading.main_thread()) for i in range(2)]
