"""Evaluation logs of open-unlearning, and of the repository of TOFU before it, as numbers of the table."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean, harmonic_mean
from typing import Any

from scipy.stats import ks_2samp

Log = dict[str, Any]
RATIO, PROBABILITY = "forget_truth_ratio", "forget_Q_A_Prob"
# The nine of which model utility is the harmonic mean; those of `ra` and `wf` are normalised over the options.
UTILITY = tuple(
    f"{part}_{kind}"
    for part, probability in (("retain", "Q_A_Prob"), ("ra", "Q_A_Prob_normalised"), ("wf", "Q_A_Prob_normalised"))
    for kind in (probability, "Q_A_ROUGE", "Truth_Ratio")
)
_AGREE = 1e-6
"""Of what a log says of itself and what follows from its rows, relative: it is written in float32 in parts."""


def read_log(path: Path) -> Log:
    """A ``TOFU_EVAL.json``, or an ``eval_log_aggregated.json`` of the older repository, which is brought to the same form.

    Raises:
        ValueError: If it is neither.
    """
    packed = path.read_bytes()
    log: Log = json.loads(gzip.decompress(packed) if path.suffix == ".gz" else packed)
    if "eval_log_forget.json" in log:
        return _from_older(log["eval_log_forget.json"])
    if RATIO not in log:
        raise ValueError(
            f"A log should hold `{RATIO}`, as `TOFU_EVAL.json` of open-unlearning does. Found {sorted(log)} in {path}. Run "
            "`src/eval.py` with `experiment=eval/tofu/default.yaml`."
        )
    return log


def _from_older(rows: Mapping[str, Mapping[str, Any]]) -> Log:
    right, wrong = rows["avg_paraphrased_loss"], rows["average_perturb_loss"]
    ratios = {index: {"score": math.exp(right[index] - fmean(wrong[index]))} for index in right}
    asked = {index: {"avg_loss": loss, "prob": math.exp(-loss)} for index, loss in rows["avg_gt_loss"].items()}
    said = {index: {"rougeL_recall": value} for index, value in rows["rougeL_recall"].items()}
    return {
        RATIO: {"value_by_index": ratios},
        PROBABILITY: {"value_by_index": asked, "agg_value": fmean(row["prob"] for row in asked.values())},
        "forget_Q_A_ROUGE": {"value_by_index": said, "agg_value": fmean(rows["rougeL_recall"].values())},
    }


def numbers(log: Log, retain: Log) -> dict[str, float]:
    """What the table says of a model: computed from the rows, and compared with what the log says itself.

    Args:
        log: Of the model.
        retain: Of the model that never knew.

    Raises:
        ValueError: If the log is of other questions, or says something else of itself than its rows do.
    """
    theirs, ours = scores(retain, RATIO, "score"), scores(log, RATIO, "score")
    if ours.keys() != theirs.keys():
        raise ValueError(
            f"Both logs should be of the same questions. Found {len(ours)} and {len(theirs)}. Evaluate both models with one "
            "`forget_split`."
        )
    test = ks_2samp(list(ours.values()), list(theirs.values()))
    found = {"forget_quality": float(test.pvalue), "ks": float(test.statistic), **_of_all(log)}
    refuse_other(log, "forget_quality", found["forget_quality"], "Give the retain log that it was evaluated with.")
    loss, other = (scores(each, PROBABILITY, "avg_loss") for each in (log, retain))
    found["distance"] = fmean(abs(value - other[index]) for index, value in loss.items())
    if all(name in log for name in UTILITY):
        nine = [value_of(log, name) for name in UTILITY]
        found["utility"] = harmonic_mean(nine) if min(nine) > 0 else 0.0
        refuse_other(log, "model_utility", found["utility"], "Evaluate again with `eval.tofu.overwrite=true`.")
    return found


def _of_all(log: Log) -> dict[str, float]:
    """Where a metric is missing, it is not in the table."""
    names = {
        "forget probability": PROBABILITY,
        "retain": "retain_Q_A_Prob",
        "forget ROUGE-L": "forget_Q_A_ROUGE",
        "extraction": "extraction_strength",
        "membership": "mia_min_k",
    }
    return {ours: value_of(log, theirs) for ours, theirs in names.items() if theirs in log}


def scores(log: Log, metric: str, field: str) -> dict[str, float]:
    """One number for each question. Of those with several answers, their mean."""
    rows = log[metric]["value_by_index"]
    return {index: fmean(row[field]) if isinstance(row[field], list) else row[field] for index, row in rows.items()}


def value_of(log: Log, metric: str) -> float:
    """What a log says of itself; of membership the AUC, which it calls otherwise."""
    found = log[metric]
    return float(found["agg_value"] if "agg_value" in found else found["auc"])


def refuse_other(log: Log, metric: str, computed: float, way_out: str) -> None:
    """A log that was evaluated without a retain log says ``null`` of itself: that is no contradiction."""
    said = log.get(metric, {}).get("agg_value")
    if said is not None and not math.isclose(said, computed, rel_tol=_AGREE, abs_tol=1e-300):
        raise ValueError(f"`{metric}` should be {computed:.6g} by the rows of the log. Found {said:.6g}. {way_out}")
