from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robustness_parts._setting import Rows, World
from robustness_parts._settings import pieces, read
from typing_extensions import override

from lightning_unlearn import TOFUFiles, TOFUSplit


@dataclass(frozen=True)
class TOFUWorld(World):
    """Who is taught and who must go, with what else TOFU asks.

    Args:
        holdout: About authors nobody was told of, for membership.
        asked: By split, rows with right answers in other words and with wrong ones.
        retain_known: How many rows of what must stay are looked at, evenly spaced.
    """

    holdout: Rows = field(default_factory=list)
    asked: Mapping[str, Rows] = field(default_factory=dict)
    retain_known: int = 120

    @property
    @override
    def looked_at(self) -> Rows:
        return spaced(self.retain, self.retain_known)


def reduced(folder: Path, split: TOFUSplit, text: Path, characters: int, retain_asked: int, known: int) -> TOFUWorld:
    """Some authors of TOFU.

    Args:
        folder: With `tofu` and `gsm8k` in it.
        split: Which authors.
        text: What disruption is measured on, cut into 16 pieces.
        characters: Of a piece.
        retain_asked: How many retain rows are asked for TOFU's metrics, evenly spaced; 0 to ask nothing.
        known: How many real authors, and how many world facts.
    """
    files = TOFUFiles(folder / "tofu")
    rows = {
        part: _rows(files, split, part) for part in ("forget", "retain", "holdout") if getattr(split, part) is not None
    }
    told_again = files.perturbed(split, "forget")
    paraphrase = [
        {**row, "question": other["paraphrased_question"], "answer": other["paraphrased_answer"]}
        for row, other in zip(rows["forget"], told_again, strict=True)
    ]
    asked: dict[str, Rows] = {}
    if retain_asked:
        retained = spaced(_named(files.perturbed(split, "retain")), retain_asked)
        asked = {"forget": _named(told_again), "retain": retained}
        asked |= {name: spaced(files.world(name), known) for name in ("real_authors", "world_facts")}
    sums = sorted(read(folder / "gsm8k" / "train_1000.jsonl"), key=lambda row: len(row["question"] + row["answer"]))
    benign = [{**row, "entity": "none"} for row in sums[:40]]
    return TOFUWorld(
        rows["forget"],
        paraphrase,
        rows["retain"],
        unseen=[],
        neutral=pieces(text, characters),
        benign=benign,
        holdout=rows.get("holdout", []),
        asked=asked,
    )


def spaced(rows: Rows, count: int) -> Rows:
    """So many rows, evenly spaced; all, if there are no more."""
    return rows if len(rows) <= count else [rows[number * len(rows) // count] for number in range(count)]


def _rows(files: TOFUFiles, split: TOFUSplit, part: str) -> Rows:
    found = files.records("full", entity=20, rows=split.rows(part)).questions()
    return [{"question": row.question, "answer": row.answer, "entity": row.entity} for row in found]


def _named(rows: list[dict[str, Any]]) -> Rows:
    """Rows of one author after the other, each with its author."""
    return [{**row, "entity": str(number // 20)} for number, row in enumerate(rows)]
