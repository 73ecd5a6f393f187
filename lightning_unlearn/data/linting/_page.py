from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from lightning_unlearn.data.linting._finding import Finding
from lightning_unlearn.functional.text import visible


def lint_page(findings: Sequence[Finding], most: int = 10) -> str:
    """Findings as one page of Markdown: check by check, what was found, in which rows, and the way out.

    Args:
        findings: In order of their checks.
        most: So many of each check are shown; the others are counted.

    Example:
        >>> print(lint_page([Finding("AlsoRetained", '"Who?" is in both.', ("row 0", "row 9"), "Take them out.")]))
        ## AlsoRetained: 1 finding
        - "Who?" is in both. (row 0; row 9)
        <BLANKLINE>
        Way out: Take them out.
        >>> lint_page([])
        'No findings.'
    """
    # Texts of rows are quoted in it: nothing that a terminal obeys may stay.
    parts = [_part(check, list(found), most) for check, found in groupby(findings, key=lambda finding: finding.check)]
    return "\n\n".join(parts) if parts else "No findings."


def _part(check: str, findings: Sequence[Finding], most: int) -> str:
    title = f"## {check}: {len(findings)} finding{'s' * (len(findings) > 1)}"
    lines = [visible(f"- {finding.says}{_rows(finding)}") for finding in findings[:most]]
    more = [f"- and {len(findings) - most} more"] if len(findings) > most else []
    return "\n".join([title, *lines, *more, "", f"Way out: {findings[0].way_out}"])


def _rows(finding: Finding) -> str:
    if not finding.rows:
        return ""
    more = [f"{finding.count - 4} more"] if finding.count > 4 else []
    return f" ({'; '.join([*finding.rows[:4], *more])})"
