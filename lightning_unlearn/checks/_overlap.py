"""How much of what an attacker is judged by stands in the data that he trains on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from lightning_unlearn.data import Probe, answer_overlap, rows_of
from lightning_unlearn.functional.overlap import Words, words_of
from lightning_unlearn.readouts import Exchange, Readout

_Compared = tuple[list[Words], list[Words], list[Words]]
"""Answers, the judged examples as whole texts, the attacker's texts."""


def overlap_of(
    forget: Probe, judged: Sequence[int], loader: Iterable[Any], batches: int | None, readout: Readout
) -> dict[str, Any]:
    """Compare in words where both have texts, else in tokens where batches hold tokens; else only count.

    Args:
        forget: The probe.
        judged: Numbers of its examples that are judged.
        loader: The attacker's data, in order.
        batches: How many batches are read; ``None`` for all.
        readout: Tells questions and answers of a batch.
    """
    compared = _in_words(forget, judged, loader, batches) or _in_tokens(forget, judged, loader, batches, readout)
    if compared is not None:
        return answer_overlap(*compared)
    rows = rows_of(loader)
    return {} if rows is None else {"data_examples": len(_first(rows, loader, batches))}


def _in_words(forget: Probe, judged: Sequence[int], loader: Iterable[Any], batches: int | None) -> _Compared | None:
    texts = getattr(getattr(loader, "dataset", None), "texts", None)
    if forget.rows is None or texts is None or rows_of(loader) is None:
        return None
    rows = [forget.rows[number] for number in judged]
    answers = [words_of(row.answer) for row in rows]
    wholes = [words_of(f"{row.question} {row.answer}") for row in rows]
    return list(answers), list(wholes), [words_of(text) for text in _first(texts, loader, batches)]


def _in_tokens(
    forget: Probe, judged: Sequence[int], loader: Iterable[Any], batches: int | None, readout: Readout
) -> _Compared | None:
    # A class is no text: that an attacker has seen it says nothing.
    if forget.exchanges is None or not any(len(exchange.question) for exchange in forget.exchanges):
        return None
    theirs: list[Exchange] = []
    for batch in islice(loader, batches):
        told = readout.exchanges(batch)
        if told is None:
            return None
        theirs += told
    own = [forget.exchanges[number] for number in judged]
    return [tuple(e.answer.tolist()) for e in own], [*map(_whole, own)], [*map(_whole, theirs)]


def _whole(exchange: Exchange) -> Words:
    return (*exchange.question.tolist(), *exchange.answer.tolist())


def _first(rows: Sequence[Any], loader: Any, batches: int | None) -> Sequence[Any]:
    return rows if batches is None else rows[: batches * (loader.batch_size or 1)]
