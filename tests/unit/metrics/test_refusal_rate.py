"""Share of answers that say nothing: the judge against the bundled refusals and the bundled answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from _ranks import run_ranks

from lightning_unlearn.data import FileRecords
from lightning_unlearn.metrics import RefusalRate


def test_every_bundled_refusal_is_one() -> None:
    refusals = [record.text("answer") for record in FileRecords("bundled:idk").selected]
    assert len(refusals) > 20
    assert [text for text in refusals if not RefusalRate().is_refusal(text)] == []


def test_no_bundled_answer_is_one() -> None:
    answers = [record.text("answer") for record in FileRecords("bundled:people").selected]
    assert len(answers) > 100
    assert [text for text in answers if RefusalRate().is_refusal(text)] == []


def test_hardly_any_answer_of_a_public_benchmark_is_one(data_folder: Path) -> None:
    rows = (data_folder / "tofu" / "full.jsonl").read_text().splitlines()
    refusals = sum(RefusalRate().is_refusal(json.loads(row)["answer"]) for row in rows)
    assert len(rows) == 4000
    assert refusals <= 8


def test_is_the_share_over_all_batches() -> None:
    metric = RefusalRate()
    metric.update(["A mill.", "I don\u2019t know."])
    metric.update(["", "SORRY, no.", "He cannot swim; the village mill is his."])
    metric.update([])
    assert metric.compute().item() == pytest.approx(3 / 5)


def test_of_no_answers_it_is_not_a_number() -> None:
    metric = RefusalRate()
    metric.update([])
    assert metric.compute().isnan()


def test_phrases_and_judge_are_open() -> None:
    metric = RefusalRate(phrases=["quantum", "x+"])
    metric.update(["A Quantum answer", "no xx", "I don't know"])
    assert metric.compute().item() == pytest.approx(2 / 3)

    class Short(RefusalRate):
        def is_refusal(self, text: str) -> bool:
            return len(text) < 3

    judged = Short()
    judged.update(["ab", "abc"])
    assert judged.compute().item() == 0.5
    with pytest.raises(ValueError, match=r"`phrases` should hold at least one regular expression. Found none"):
        RefusalRate(phrases=[])


def test_ranks_are_pooled() -> None:
    def on_rank(rank: int, world_size: int) -> float:
        torch.distributed.init_process_group("gloo")
        metric = RefusalRate()
        metric.update(["A mill"] * 3 if rank == 0 else ["I don't know"])
        return metric.compute().item()

    assert run_ranks(on_rank) == [0.25, 0.25]
