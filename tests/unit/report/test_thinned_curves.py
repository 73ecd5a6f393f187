"""Curves are bounded, keep their ends, and do not notice an interruption."""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace

import pytest
import torch

from lightning_unlearn import WriteReport
from lightning_unlearn.report import add_point


def curve_of(steps: range, most: int) -> list[dict[str, float]]:
    curve: list[dict[str, float]] = []
    for step in steps:
        add_point(curve, {"step": step, "forget": -step}, most)
    return curve


@pytest.mark.parametrize("every", [1, 3, 7])
@pytest.mark.parametrize("most", [3, 8, 33])
def test_it_never_holds_more_and_keeps_first_and_newest(most: int, every: int) -> None:
    curve: list[dict[str, float]] = []
    for step in range(5, 1500, every):
        add_point(curve, {"step": step}, most)
        assert len(curve) <= most
        assert (curve[0]["step"], curve[-1]["step"]) == (5, step)
        assert sorted({point["step"] for point in curve}) == [point["step"] for point in curve]


def test_nothing_is_dropped_before_it_is_full() -> None:
    assert [point["step"] for point in curve_of(range(1, 33), most=32)] == list(range(1, 33))


def test_it_is_evenly_spaced_and_never_sparser_than_half() -> None:
    steps = [point["step"] for point in curve_of(range(0, 1000), most=50)]
    assert set(steps[:-1]) == set(range(0, 1000, 32))
    assert len(steps) > 25


def test_an_interruption_changes_nothing() -> None:
    whole = curve_of(range(1, 400), most=20)
    for killed in range(1, 399, 13):
        resumed = pickle.loads(pickle.dumps(curve_of(range(1, killed + 1), most=20)))
        for step in range(killed + 1, 400):
            add_point(resumed, {"step": step, "forget": -step}, most=20)
        assert resumed == whole


def test_what_a_checkpoint_carries_does_not_grow_with_the_steps() -> None:
    report, sizes = WriteReport("report"), {}
    names = ("forget", "retain", "cosine", "forget_norm", "retain_norm", "realised")
    metrics = {f"unlearn/{name}": torch.tensor(0.1) for name in names}
    for step in range(1, 5001):
        trainer = SimpleNamespace(global_step=step, callback_metrics=metrics)
        report.on_train_batch_end(trainer, None, None, None, step)
        if step in (2500, 3999, 5000):
            sizes[step] = len(pickle.dumps(copy.deepcopy(report.state_dict())))
    assert abs(sizes[5000] - sizes[2500]) < 200
    assert sizes[3999] < 2 * sizes[2500]
    assert len(report.training) == 1251
