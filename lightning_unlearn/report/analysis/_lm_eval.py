"""What the ``lm-eval`` harness found, as observations."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning_unlearn.observation import Observation, Subject

PREFIX = "lm_eval/"
"""Beginning of the splits that are tasks of the harness."""
_TWO_SIDED = 1.96  # standard errors, on either side of a mean, for 95 %


def read_lm_eval(path: str | Path, subject: Subject, *, step: int = 0) -> list[Observation]:
    """Read what ``lm_eval --output_path FOLDER --log_samples`` wrote of one model.

    Each task is a split, ``lm_eval/NAME``, and each of its metrics is an observation, with a score for each document where
    they were logged and the metric is their mean. Other metrics have the interval of the harness's standard error. Groups
    are left out: they are means of their tasks.

    Args:
        path: The folder, or one of its ``results_*.json``. Of several in a folder the newest is read.
        subject: Whose results they are: ``"original"``, ``"unlearned"`` or ``"control"``.
        step: Of the fit.

    Raises:
        FileNotFoundError: If there are no results.
        ValueError: If the file is no result of the harness.
    """
    file = _results_file(Path(path))
    found = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(found, dict) or not found.keys() >= {"results", "configs", "higher_is_better"}:
        raise ValueError(
            "Results should have `results`, `configs` and `higher_is_better`, as lm-eval 0.4 writes them. Found "
            f"`{file}` without."
        )
    return [observation for task in found["configs"] for observation in _of_task(task, found, file, subject, step)]


def what_was_run(path: str | Path) -> dict[str, Any]:
    """What has to be the same for two results to be compared: of each task its version, shots, documents and prompts."""
    found = json.loads(_results_file(Path(path)).read_text(encoding="utf-8"))
    return {
        task: {
            "version": found.get("versions", {}).get(task),
            "shots": found.get("n-shot", {}).get(task),
            "documents": found.get("n-samples", {}).get(task, {}).get("effective"),
            "hash of its prompts": found.get("task_hashes", {}).get(task),
        }
        for task in found["configs"]
    }


def _results_file(path: Path) -> Path:
    # The stamp in a name is a time, so that the last by name is the newest; the harness makes a folder for each model.
    files = [path] if path.is_file() else sorted(path.rglob("results_*.json"), key=lambda file: file.name)
    if not files:
        raise FileNotFoundError(
            "`path` should be a folder that lm-eval has written to (`--output_path`), or its `results_*.json`. Found no "
            f"results at `{path}`."
        )
    return files[-1]


def _of_task(task: str, found: Mapping[str, Any], file: Path, subject: Subject, step: int) -> Iterator[Observation]:
    documents = _documents(file, task)
    rising = found["higher_is_better"].get(task, {})
    row = found["results"][task]
    for key, value in row.items():
        metric, _, kind = key.partition(",")
        if not kind or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        scores = _scores(documents, metric, kind, value)
        error = row.get(f"{metric}_stderr,{kind}")
        known = not scores and isinstance(error, int | float) and math.isfinite(error)
        yield Observation(
            metric if kind == "none" else f"{metric} ({kind})",
            PREFIX + task,
            float(value),
            step,
            subject,
            scores=list(scores.values()),
            entities=list(scores),
            higher_means_known=rising.get(metric) is not False,
            interval=(value - _TWO_SIDED * error, value + _TWO_SIDED * error) if known else None,
        )


def _documents(file: Path, task: str) -> list[dict[str, Any]]:
    samples = file.with_name(file.name.replace("results_", f"samples_{task}_", 1)).with_suffix(".jsonl")
    if not samples.is_file():
        return []
    return [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines() if line.strip()]


def _scores(documents: list[dict[str, Any]], metric: str, kind: str, value: float) -> dict[str, float]:
    """The score of each document by its hash and number, if the metric is their mean."""
    of_kind = sorted((d for d in documents if d.get("filter") == kind), key=lambda d: d["doc_id"])
    scores = {f"{d['doc_id']} {d['doc_hash'][:16]}": d.get(metric) for d in of_kind}
    plain = {name: float(score) for name, score in scores.items() if isinstance(score, int | float)}
    if not plain or len(plain) < len(scores) or not math.isclose(sum(plain.values()) / len(plain), value, abs_tol=1e-6):
        return {}
    return plain
