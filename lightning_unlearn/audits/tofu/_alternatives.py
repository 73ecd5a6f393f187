"""The rows of TOFU as probes: the answer itself, and beside it the answers that it is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_unlearn.data import Encoding, InMemoryRecords, LoaderSettings, Probe, QuestionAnswerData, load_probe
from lightning_unlearn.readouts import CausalLMReadout, Readout

PERTURBED = "_perturbed"
"""Ends the name of a split of wrong answers, as many for each question, one question after the other."""

PARAPHRASED = "_paraphrased"
"""Ends the name of a split of right answers in other words, one for each question."""


def alternatives(split: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, str]]]:
    """The questions of a split with their answers, and with others, each a split of its own.

    Args:
        split: Name of the questions.
        rows: With ``question`` and ``answer``, and perhaps ``paraphrased_answer``, ``perturbed_answer`` (a list of wrong
            answers) and ``entity``, as the files of TOFU have them. Without an entity each question is about its own.

    Returns:
        Rows of ``question``, ``answer`` and ``entity``, for :class:`InMemoryRecords`: by the name of the split itself; with
        ``_paraphrased`` behind it the answers in other words; with ``_perturbed`` the wrong ones.

    Raises:
        ValueError: If questions have different numbers of wrong answers, or only some have an answer in other words.

    Example:
        >>> rows = [{"question": "Who wrote it?", "answer": "Ada", "perturbed_answer": ["Bo", "Cy"]}]
        >>> {name: [row["answer"] for row in found] for name, found in alternatives("forget", rows).items()}
        {'forget': ['Ada'], 'forget_perturbed': ['Bo', 'Cy']}
    """
    answers = {
        "": [[row["answer"]] for row in rows],
        PARAPHRASED: [[row["paraphrased_answer"]] if row.get("paraphrased_answer") else [] for row in rows],
        PERTURBED: [list(row.get("perturbed_answer") or ()) for row in rows],
    }
    found = {}
    for ending, of_rows in answers.items():
        counts = {len(of_row) for of_row in of_rows}
        if len(counts) > 1:
            raise ValueError(
                f"Each question of `{split}` should have as many answers of a kind as the others. Found questions with "
                f"{min(counts)} and with {max(counts)} for `{split}{ending}`. Leave some out."
            )
        if counts - {0}:
            found[split + ending] = [
                {"question": row["question"], "answer": answer, "entity": str(row.get("entity", number))}
                for number, (row, of_row) in enumerate(zip(rows, of_rows, strict=True))
                for answer in of_row
            ]
    return found


def tofu_probes(
    splits: Mapping[str, Sequence[Mapping[str, Any]]],
    encoding: Encoding,
    readout: Readout | None = None,
    *,
    batch_size: int = 16,
) -> dict[str, Probe]:
    """Open rows of TOFU as probes, their other answers included. See :func:`alternatives`.

    Args:
        splits: Rows by split, such as those of ``forget10_perturbed.jsonl`` as ``forget``.
        encoding: How rows become tokens.
        readout: How batches are read. Defaults to ``CausalLMReadout()``.
        batch_size: Rows in a batch.

    Example:
        >>> rows = [{"question": "Who wrote it?", "answer": "Ada", "perturbed_answer": ["Bo", "Cy"]}]
        >>> {name: probe.size for name, probe in tofu_probes({"forget": rows}, Encoding("bundled")).items()}
        {'forget': 1, 'forget_perturbed': 2}
    """
    readout = CausalLMReadout() if readout is None else readout
    loader = LoaderSettings(batch_size=batch_size)
    return {
        name: load_probe(
            QuestionAnswerData(InMemoryRecords(found, entity="entity"), encoding, loader).val_dataloader(), readout
        )
        for split, rows in splits.items()
        for name, found in alternatives(split, rows).items()
    }
