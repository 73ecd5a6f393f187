"""Probes in the words of an attack by prompt, and the proof that these are free of the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lightning_unlearn.attacks import Attack
from lightning_unlearn.attacks.prompts import Told, free_of_answers
from lightning_unlearn.checks._records import logged_as
from lightning_unlearn.data import Probe, QuestionAnswer
from lightning_unlearn.observation import Observation


@dataclass(frozen=True)
class Asked:
    """What is asked at one point of an attack.

    Args:
        probes: By split. A row that does not count is asked in its own words.
        counted: By split, the numbers of the rows that count; a split of which all do is not named.
        about: How many rows do not count, and what the prompts of the others tell of their answers.
    """

    probes: Mapping[str, Probe]
    counted: Mapping[str, frozenset[int]] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)

    def only_counted(self, observations: Sequence[Observation]) -> list[Observation]:
        """The observations without the scores of rows that do not count; without those of which nothing is left."""
        kept = [o.at(self.counted[o.split]) if o.scores and o.split in self.counted else o for o in observations]
        return [now for now, before in zip(kept, observations, strict=True) if now.scores or not before.scores]


def asked_by(attack: Attack, probes: Mapping[str, Probe], point: float) -> Asked:
    """Ask ``probes`` in the words of ``attack``, if it has words of its own.

    Raises:
        ValueError: If a probe has no words, or the attack changes answers, entities or the number of rows.
    """
    if type(attack).asks is Attack.asks:
        return Asked(probes)
    found: dict[str, Probe] = {}
    counted: dict[str, frozenset[int]] = {}
    about: dict[str, Any] = {}
    for split, probe in probes.items():
        before = _rows(probe)
        rows = attack.asks(before, split=split, point=point)
        _refuse_other_rows(before, rows, type(attack).__name__)
        proven = free_of_answers(before, rows)
        now = tuple(own if row is None else row for own, (row, _) in zip(before, proven, strict=True))
        found[split] = probe if now == tuple(before) else probe.asked(now)
        counts = [number for number, (row, _) in enumerate(proven) if row is not None]
        if len(counts) < len(before):
            counted[split] = frozenset(counts)
        about |= _about(split, len(before) - len(counts), [told for row, told in proven if row is not None])
    return Asked(found, counted, about)


def refuse_none_counted(attack: str, asked: Sequence[Asked]) -> None:
    """Refuse an attack under which nothing was observed of what must go.

    Raises:
        ValueError: If no row of the split ``forget`` counted at any point.
    """
    none = [not each.counted.get("forget", {0}) for each in asked]
    if none and all(none):
        raise ValueError(
            f"`{attack}` should have prompts that are free of the answers. Found none for the split `forget`, at any of its "
            f"{len(none)} points: each holds words of the answer, or cannot be put for its row. Give it other words."
        )


def _rows(probe: Probe) -> Sequence[QuestionAnswer]:
    rows = probe.rows
    return tuple(probe.asked(()).rows or ()) if rows is None else rows  # which refuses it by name


def _refuse_other_rows(before: Sequence[QuestionAnswer], rows: Sequence[QuestionAnswer | None], attack: str) -> None:
    if len(rows) != len(before):
        raise ValueError(f"`{attack}` should ask as many rows as it is given, {len(before)}. Found {len(rows)}.")
    for own, row in zip(before, rows, strict=True):
        if row is not None and _judged(own) != _judged(row):
            raise ValueError(
                f"`{attack}` should leave answers and entities as they are, and change what is asked. Found other ones in "
                f"{own.source}. Use `dataclasses.replace(row, question=...)`."
            )


def _judged(row: QuestionAnswer) -> QuestionAnswer:
    return replace(row, question="", before=(), lead="")


def _about(split: str, left_out: int, told: Sequence[Told]) -> dict[str, Any]:
    shares = [one.share for one in told]
    found = {"rows_left_out": left_out, "answer_overlap": sum(shares) / len(shares) if shares else 0.0}
    found["most_answer_overlap"] = max(shares, default=0.0)
    return {logged_as(split, name): value for name, value in found.items()}
