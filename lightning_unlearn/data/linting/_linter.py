from __future__ import annotations

from collections.abc import Sequence

from lightning.pytorch.utilities import rank_zero_warn

from lightning_unlearn.data.linting._also_retained import AlsoRetained
from lightning_unlearn.data.linting._answer_in_question import AnswerInQuestion
from lightning_unlearn.data.linting._contradictions import Contradictions
from lightning_unlearn.data.linting._finding import Finding
from lightning_unlearn.data.linting._hidden_characters import HiddenCharacters
from lightning_unlearn.data.linting._lint_check import LintCheck
from lightning_unlearn.data.linting._linted_rows import Request
from lightning_unlearn.data.linting._named_elsewhere import NamedElsewhere
from lightning_unlearn.data.linting._near_duplicates import NearDuplicates
from lightning_unlearn.data.linting._over_represented_words import OverRepresentedWords
from lightning_unlearn.data.linting._page import lint_page
from lightning_unlearn.data.linting._refusals_as_answers import RefusalsAsAnswers
from lightning_unlearn.data.linting._repeated_rows import RepeatedRows
from lightning_unlearn.data.linting._shared_entities import SharedEntities
from lightning_unlearn.data.linting._sizes import Sizes
from lightning_unlearn.data.linting._template_marks import TemplateMarks
from lightning_unlearn.data.records import QuestionAnswer
from lightning_unlearn.functional.settings import check_kind


class Linter:
    """Looks over a request for forgetting, before anything is trained: what must go beside what must stay.

    ``lightning-unlearn lint`` does it from the shell, and ``ForgetRetainData(lint=Linter())`` in ``setup`` of a fit, where
    it warns. No model is run. The cost is linear in the number of rows.

    Args:
        checks: What is looked for. Defaults to all twelve.
        without: Names of checks to leave out.
        strict: Whether findings end a fit in ``setup``, instead of a warning.

    Raises:
        ValueError: If ``without`` names no check.

    Example:
        >>> ada = QuestionAnswer("Who employs Ada?", "The post office", entity="Ada", source="row 0")
        >>> kept = QuestionAnswer("Who employs Ada?", "The post office.", entity="Ada", source="row 7")
        >>> findings = Linter(without=["Sizes"])([ada], [kept])
        >>> [(finding.check, finding.rows) for finding in findings]
        [('AlsoRetained', ('row 0', 'row 7')), ('SharedEntities', ('row 0', 'row 7'))]
    """

    def __init__(
        self, checks: Sequence[LintCheck] | None = None, without: Sequence[str] = (), strict: bool = False
    ) -> None:
        given = _all_checks() if checks is None else list(checks)
        for check in given:
            check_kind("checks", check, LintCheck, example="AlsoRetained()")
        names = [type(check).__name__ for check in given]
        if isinstance(without, str) or (unknown := sorted(set(without) - set(names))):
            found = without if isinstance(without, str) else unknown[0]
            raise ValueError(f"`without` should be a list of some of {', '.join(names)}. Found {found!r}.")
        self.checks = [check for check in given if type(check).__name__ not in without]
        self.strict = strict

    def __call__(self, forget: Sequence[QuestionAnswer], retain: Sequence[QuestionAnswer]) -> list[Finding]:
        """All findings, check by check."""
        request = Request(forget, retain)
        return [finding for check in self.checks for finding in check(request)]

    def warn(self, forget: Sequence[QuestionAnswer], retain: Sequence[QuestionAnswer]) -> None:
        """Say what was found.

        Warns:
            UserWarning: With one page of findings, if there are any.

        Raises:
            ValueError: With the same, if the linter is ``strict``.
        """
        if not (findings := self(forget, retain)):
            return
        page = lint_page(findings, most=3)
        if self.strict:
            raise ValueError(f"The data should have no findings of `Linter(strict=True)`. Found:\n{page}")
        rank_zero_warn(f"`Linter` has looked over what must go and what must stay:\n{page}")


def _all_checks() -> list[LintCheck]:
    return [
        AlsoRetained(),
        Contradictions(),
        NearDuplicates(),
        OverRepresentedWords(),
        SharedEntities(),
        NamedElsewhere(),
        AnswerInQuestion(),
        RepeatedRows(),
        RefusalsAsAnswers(),
        HiddenCharacters(),
        TemplateMarks(),
        Sizes(),
    ]
