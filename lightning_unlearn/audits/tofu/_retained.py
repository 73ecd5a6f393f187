"""Scores of a retain model from a file."""

from __future__ import annotations

import json
from pathlib import Path

from lightning_unlearn.audits.tofu._questions import TofuScores


def load_retained(path: str) -> TofuScores:
    """Read scores that :func:`tofu_scores` gave, and ``json.dump`` wrote.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds something else, or no truth ratios of forget questions.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"`retain` should be a JSON file with the scores of a retain model. Found no file at {path!r}. Make it by "
            "`json.dump(tofu_scores(...), file)`, of a model that was trained without what must go."
        )
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        _ = found["forget"]["truth_ratio"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"`retain` should be a JSON file with the scores of a retain model, which hold truth ratios of the split "
            f"`forget`. Found something else in {path!r}. Make it by `json.dump(tofu_scores(...), file)`, with the probes "
            "`forget` and `forget_perturbed`."
        ) from error
    scores: TofuScores = found
    return scores
