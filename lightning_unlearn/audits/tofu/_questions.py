"""Scores of questions, from those of the rows that hold their answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_unlearn.audits._scoring_audit import Scores
from lightning_unlearn.audits.tofu._alternatives import PARAPHRASED, PERTURBED
from lightning_unlearn.data import Probe
from lightning_unlearn.functional.compat import Compat
from lightning_unlearn.functional.truth_ratio import option_probability, truth_ratio

TofuScores = Mapping[str, Mapping[str, list[Any]]]
"""By split and by name: one value for each question, in the order of the data. Plain values, which JSON can hold."""

SPLITS = ("forget", "retain", "real_authors", "world_facts")
"""The splits of questions; beside them are their answers in other words, and wrong ones."""


def of_questions(
    scores: Mapping[str, Scores], probes: Mapping[str, Probe], compat: Compat | None = None
) -> dict[str, dict[str, list[Any]]]:
    """What is known of each question, from scores of rows.

    Args:
        scores: By split, with ``token_nll``; those of generated answers, too.
        probes: What was asked, by split.
        compat: ``"open-unlearning"`` for its small terms in denominators.
    """
    found = {}
    for split in (split for split in SPLITS if scores.get(split, {}).get("token_nll")):
        found[split] = {name: list(values) for name, values in scores[split].items()}
        right = _nll(scores, split)
        if len(probes[split].entities) == len(right):
            found[split]["entities"] = list(probes[split].entities)
        found[split]["answer_probability"] = (-right).exp().tolist()
        wrong = _wrong(scores, split, len(right))
        if wrong is not None:
            said_otherwise = _paraphrased(scores, split, right)
            found[split]["truth_ratio"] = truth_ratio(said_otherwise, wrong, compat).tolist()
            found[split]["option_probability"] = option_probability(right, wrong, compat).tolist()
    return found


def _nll(scores: Mapping[str, Scores], split: str) -> Tensor:
    return torch.tensor(scores.get(split, {}).get("token_nll", []), dtype=torch.float64)


def _wrong(scores: Mapping[str, Scores], split: str, questions: int) -> Tensor | None:
    nll = _nll(scores, split + PERTURBED)
    if len(nll) % questions:
        raise ValueError(
            f"`{split}{PERTURBED}` should have as many wrong answers for each question of `{split}`. Found {len(nll)} rows "
            f"with an answer for {questions} questions. Make both of the same rows, by `alternatives`."
        )
    return nll.view(questions, -1) if len(nll) else None


def _paraphrased(scores: Mapping[str, Scores], split: str, right: Tensor) -> Tensor:
    """The right answer in other words; of a split without such answers, the right answer itself."""
    nll = _nll(scores, split + PARAPHRASED)
    if len(nll) not in (0, len(right)):
        raise ValueError(
            f"`{split}{PARAPHRASED}` should have one answer for each question of `{split}`. Found {len(nll)} rows with an "
            f"answer for {len(right)} questions. Make both of the same rows, by `alternatives`."
        )
    return nll if len(nll) else right


def refuse_other_questions(scores: TofuScores, retained: TofuScores) -> None:
    """Refuse scores of a retain model that are of other questions."""
    for split in scores:
        own, theirs = (_entities(each, split) for each in (scores, retained))
        if theirs is not None and own != theirs:
            raise ValueError(
                f"The retain model should be asked the same questions of `{split}` as the model. Found "
                f"{len(theirs)} questions about {len(set(theirs))} entities, and {len(own or ())} about {len(set(own or ()))} "
                "of the model. Make its scores anew, with the same probes."
            )


def _entities(scores: TofuScores, split: str) -> Sequence[str] | None:
    of = scores.get(split)
    return None if of is None else of.get("entities") or [str(n) for n in range(len(of["token_nll"]))]
