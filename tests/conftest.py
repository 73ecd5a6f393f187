from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: two processes on two cores collapse otherwise

import pytest
import torch
from _shared_data import DATA


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _logs_are_left_as_they_were() -> Iterator[None]:
    """A study that runs in this process silences them for good."""
    names = ("lightning.pytorch", "lightning.fabric", "lightning_unlearn")
    loggers = [logging.getLogger(name + part) for name in names for part in ("", ".utilities.rank_zero")]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.fixture(scope="session", autouse=True)
def _threads() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def data_folder() -> Path:
    """Real benchmark data, which is not part of this repository."""
    if not DATA.is_dir():
        pytest.skip(f"no benchmark data at {DATA}; set LIGHTNING_UNLEARN_DATA")
    return DATA


@pytest.fixture
def device_semantics(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """`.cpu()` copies, as from a device: FSDP1, which is not made for CPUs, gathers all moments in one buffer."""
    if request.node.callspec.params["kind"] == "fsdp1":
        monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor, *args, **kwargs: tensor.clone())


def pytest_configure() -> None:
    """A shell has what it starts in the background ignore Ctrl-C, and tests press it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
