"""What only a GPU can answer. `LIGHTNING_UNLEARN_TEST_DEVICE=cpu` runs it on the CPU, to try the tests themselves."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

# Before CUDA starts: without it, matrix products are not deterministic.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import pytest
import torch
from _modules import ACCELERATOR

DEVICE = os.environ.get("LIGHTNING_UNLEARN_TEST_DEVICE", "cuda")
HERE = Path(__file__).parent
REASON = "no CUDA device: set LIGHTNING_UNLEARN_TEST_DEVICE=cpu to try the tests themselves"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = DEVICE == "cuda" and not torch.cuda.is_available()
    for item in items:
        if HERE not in item.path.parents:
            continue
        # Warnings of drivers and compilers, which no other machine of ours has seen, fail nothing here.
        item.add_marker(pytest.mark.filterwarnings("default"))
        if missing:
            item.add_marker(pytest.mark.skip(reason=REASON))


@pytest.fixture
def device() -> torch.device:
    return torch.device(DEVICE, 0) if DEVICE == "cuda" else torch.device(DEVICE)


@pytest.fixture(autouse=True)
def _on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """`quiet` makes trainers for it, and module-level loaders stay on the CPU, as everywhere."""
    monkeypatch.setenv(ACCELERATOR, "gpu" if DEVICE == "cuda" else DEVICE)


@pytest.fixture
def deterministic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Equal to the bit is asked for where the device gives equal bits."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
