"""What can be wrong with a request for forgetting, found before anything is trained."""

from lightning_unlearn.data.linting._also_retained import AlsoRetained
from lightning_unlearn.data.linting._answer_in_question import AnswerInQuestion
from lightning_unlearn.data.linting._contradictions import Contradictions
from lightning_unlearn.data.linting._finding import Finding
from lightning_unlearn.data.linting._hidden_characters import HiddenCharacters
from lightning_unlearn.data.linting._lint_check import LintCheck
from lightning_unlearn.data.linting._linted_rows import LintedRows, Request
from lightning_unlearn.data.linting._linter import Linter
from lightning_unlearn.data.linting._named_elsewhere import NamedElsewhere
from lightning_unlearn.data.linting._near_duplicates import NearDuplicates
from lightning_unlearn.data.linting._over_represented_words import OverRepresentedWords
from lightning_unlearn.data.linting._page import lint_page
from lightning_unlearn.data.linting._refusals_as_answers import RefusalsAsAnswers
from lightning_unlearn.data.linting._repeated_rows import RepeatedRows
from lightning_unlearn.data.linting._shared_entities import SharedEntities
from lightning_unlearn.data.linting._sizes import Sizes
from lightning_unlearn.data.linting._template_marks import TemplateMarks

__all__ = [
    "AlsoRetained",
    "AnswerInQuestion",
    "Contradictions",
    "Finding",
    "HiddenCharacters",
    "LintCheck",
    "LintedRows",
    "Linter",
    "NamedElsewhere",
    "NearDuplicates",
    "OverRepresentedWords",
    "RefusalsAsAnswers",
    "RepeatedRows",
    "Request",
    "SharedEntities",
    "Sizes",
    "TemplateMarks",
    "lint_page",
]
