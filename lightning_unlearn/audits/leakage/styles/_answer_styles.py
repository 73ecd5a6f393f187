from __future__ import annotations

from lightning_unlearn.audits.leakage.styles._answer_style import AnswerStyle
from lightning_unlearn.audits.leakage.styles._multiple_choice import MultipleChoice
from lightning_unlearn.audits.leakage.styles._phrased import Phrased
from lightning_unlearn.audits.leakage.styles._true_false import TrueFalse


def answer_styles() -> dict[str, AnswerStyle]:
    """Six styles beside that of the data: brief, detailed, as a sentence to complete, as JSON, four options, yes or no.

    Example:
        >>> list(answer_styles())
        ['brief', 'detailed', 'completion', 'json', 'choice', 'yes_no']

    References:
        Chen et al., `SEFE <https://arxiv.org/abs/2505.02486>`_, 2025, for superficial and essential forgetting, and its five
        styles; the words are ours.
    """
    return {
        "brief": Phrased("{question} Answer in one word or a few."),
        "detailed": Phrased("{question} Answer in detail, and explain."),
        "completion": Phrased('Complete the text. "{question} The answer is'),
        "json": Phrased('{question} Reply with JSON alone, of the form {"answer": "..."}.'),
        "choice": MultipleChoice(),
        "yes_no": TrueFalse(),
    }
