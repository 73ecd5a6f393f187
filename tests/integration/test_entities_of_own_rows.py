"""Whom rows of the user's own are about: a data set says so by `entities`, also one that the fit trains on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from _modules import SomebodysModule, examples, quiet
from torch.utils.data import DataLoader, Dataset, SubsetRandomSampler

from lightning_unlearn import GradientAscent, Quantize, RecoveryCheck, Unlearn, WriteReport


class Named(Dataset[Any]):
    """Rows, three of each device."""

    def __init__(self, seed: int, n: int) -> None:
        self.rows = examples(seed, n)
        self.entities = [f"device {number // 3}" for number in range(n)]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.rows[index]


def counted(retain: DataLoader[Any], folder: Path) -> dict[str, tuple[int, int]]:
    """Examples and entities of each split."""
    write = WriteReport(str(folder))
    check = RecoveryCheck({"int4": Quantize(bits=4)}, every_n_epochs=0)
    unlearn = Unlearn(GradientAscent(), weight=0.1, forget=DataLoader(Named(1, 18), 4))
    quiet(callbacks=[unlearn, check, write]).fit(SomebodysModule(), retain)
    assert write.report is not None
    levels = [level for level in write.report.levels if level.metric == "probability" and level.model == "unlearned"]
    return {level.split: (level.interval.examples, level.interval.entities) for level in levels}


@pytest.mark.parametrize("shuffle", [False, True])
def test_entities_of_the_rows_that_the_fit_trains_on_are_counted(shuffle: bool, tmp_path: Path) -> None:
    found = counted(DataLoader(Named(2, 24), 4, shuffle=shuffle), tmp_path)
    assert found == {"forget": (18, 6), "retain": (24, 8)}


def test_of_rows_beyond_those_observed_none_is(tmp_path: Path) -> None:
    """32 batches at most are observed: 64 rows of 90."""
    assert counted(DataLoader(Named(2, 90), 2), tmp_path)["retain"] == (64, 22)


def test_a_sampler_leaves_out_entities_too(tmp_path: Path) -> None:
    loader = DataLoader(Named(2, 24), 4, sampler=SubsetRandomSampler(range(15), generator=torch.Generator()))
    assert counted(loader, tmp_path)["retain"] == (15, 5)
