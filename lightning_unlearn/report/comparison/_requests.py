from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lightning_unlearn.report.analysis.over_time import TransferMatrix, transfer_matrix
from lightning_unlearn.report.comparison._same import lead
from lightning_unlearn.report.schema import RobustnessReport


@dataclass(frozen=True)
class Requests:
    """What was lost with each of several things that were forgotten.

    Args:
        metric: What knowledge is measured by.
        matrix: Shares of what was known that are gone: one row for each request, one column for each split.
        warnings: What keeps a number from being known.
    """

    metric: str
    matrix: TransferMatrix
    warnings: list[str]


def compare_requests(reports: Mapping[str, RobustnessReport]) -> Requests:
    """Put together reports of models of which each forgot something else: what did each request take with it?

    Every report asks what must go, ``forget``, and as many further splits as there are, which should have the same names in
    all.

    Args:
        reports: By the name of what was forgotten.

    Raises:
        ValueError: If there are fewer than two, or they lead with different metrics.

    Example:
        >>> from lightning_unlearn import Observation
        >>> from lightning_unlearn.report import assess
        >>> def forgot(left):
        ...     levels = {"original": 1.0, "unlearned": left, "control": 0.0}
        ...     return assess([Observation("p", "forget", v, subject=s) for s, v in levels.items()])
        >>> compare_requests({"Ada": forgot(0.25), "Bo": forgot(0.5)}).matrix.ratios
        [[0.75], [0.5]]
    """
    if len(reports) < 2:
        raise ValueError(f"At least two reports should be compared. Found {len(reports)}.")
    metric = lead(reports)
    matrix = transfer_matrix({name: report.observations for name, report in reports.items()}, metric)
    return Requests(metric, matrix, _warnings(reports, matrix))


def _warnings(reports: Mapping[str, RobustnessReport], matrix: TransferMatrix) -> list[str]:
    without = [name for name, r in reports.items() if not any(o.subject == "control" for o in r.observations)]
    found = (
        [f"No control in {', '.join(without)}: what a model knows that was never told is not known."] if without else []
    )
    apart = [split for split in matrix.splits if split != "forget" and len(_data(reports, split)) > 1]
    return [*found, *(f"{split}: not the same examples in all reports." for split in apart)]


def _data(reports: Mapping[str, RobustnessReport], split: str) -> set[str]:
    return {str(r.data[split].get("content_hash", "")) for r in reports.values() if split in r.data}
