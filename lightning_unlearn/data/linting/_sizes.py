from __future__ import annotations

from collections.abc import Iterator

from typing_extensions import override

from lightning_unlearn.data.linting._finding import Finding
from lightning_unlearn.data.linting._lint_check import LintCheck
from lightning_unlearn.data.linting._linted_rows import Request
from lightning_unlearn.functional.settings import check_between, check_whole


class Sizes(LintCheck):
    """Sizes at which methods are known to fail, or a report cannot tell.

    - More than ``share`` of all rows must go: retain rows say too little about what must stay. TOFU's largest split is a
      tenth; from there on selective synaptic dampening with its published ``alpha = 10`` chooses no weight at all, since no
      ratio of importances exceeds the inverse of the share.
    - Fewer than ``least`` rows must go: intervals of a report are wide, and one row decides.

    Args:
        share: Most that may go of all rows.
        least: Fewest rows that must go.

    Example:
        >>> from lightning_unlearn.data import QuestionAnswer
        >>> rows = [QuestionAnswer(f"Who is {name}?", "A clerk", entity=name, source=name) for name in ("Ada", "Bo")]
        >>> [finding.says for finding in Sizes(least=2)(Request(rows, rows[:1]))]
        ['2 of 3 rows must go, 67%.']
    """

    way_out = "Add retain rows, near to what must go and far from it, or forget in several requests."

    def __init__(self, share: float = 0.25, least: int = 10) -> None:
        check_between("share", share, 0, 1)
        check_whole("least", least)
        self.share, self.least = share, least

    @override
    def __call__(self, request: Request) -> Iterator[Finding]:
        forget, total = len(request.forget), len(request.forget) + len(request.retain)
        if forget > self.share * total:
            yield self.found(f"{forget} of {total} rows must go, {forget / total:.0%}.", [])
        if forget < self.least:
            yield self.found(f"{forget} rows must go: too few to tell what became of them.", request.forget.rows)
