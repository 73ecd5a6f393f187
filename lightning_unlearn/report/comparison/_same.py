"""What reports have to have in common before one stands beside another."""

from __future__ import annotations

from collections.abc import Mapping

from lightning_unlearn.report.schema import RobustnessReport


def lead(reports: Mapping[str, RobustnessReport]) -> str:
    """The metric that all reports lead with.

    Raises:
        ValueError: If they lead with different ones.
    """
    return _same("lead with the same metric", {n: str(r.summary["headline_metric"]) for n, r in reports.items()})


def same_data(reports: Mapping[str, RobustnessReport]) -> None:
    """Refuse reports of other questions.

    Raises:
        ValueError: If what was to be forgotten, or kept, is not the same in all.
    """
    for split in ("forget", "retain"):
        hashes = {name: str(report.data.get(split, {}).get("content_hash", "")) for name, report in reports.items()}
        _same(f"be of the same {split} examples", hashes)


def _same(what: str, found: Mapping[str, str]) -> str:
    if len(set(found.values())) > 1:
        listed = ", ".join(f"{name}: {value or 'unknown'}" for name, value in found.items())
        raise ValueError(
            f"Reports to compare should {what}. Found {listed}. Audit the models on the same data; or, if each forgot "
            "something else, ask for the matrix of what each cost: `compare --requests`, `compare_requests(...)`."
        )
    return next(iter(found.values()))
