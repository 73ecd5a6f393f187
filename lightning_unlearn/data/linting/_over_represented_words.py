from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence

from typing_extensions import override

from lightning_unlearn.data.linting._finding import Finding
from lightning_unlearn.data.linting._lint_check import LintCheck
from lightning_unlearn.data.linting._linted_rows import LintedRows, Request
from lightning_unlearn.functional.over_representation import Counted, over_represented
from lightning_unlearn.functional.settings import check_between, check_positive, check_whole

_WORD = re.compile(r"\w+")


class OverRepresentedWords(LintCheck):
    """Harmless words that questions that must go have much more often than those that must stay.

    A model that forgets them learns to refuse them: who may ask for forgetting can so break harmless questions. The odds of
    each word are compared, question by question, with rows of one entity not taken for independent, and the share of false
    discoveries among all words is controlled. Names are left out (words that are mostly written in capitals), and
    words about fewer than three entities. A set of one topic has words of its own: look whether they are its subject.

    Args:
        rate: Of false discoveries.
        ratio: Least odds ratio.
        least: Least number of rows with the word.

    References:
        Ren et al., `Keeping an Eye on LLM Unlearning <https://arxiv.org/abs/2506.00359>`_, 2025, for the attack; Monroe,
        Colaresi and Quinn, *Fightin' Words*, 2008, for log-odds of words.
    """

    way_out = (
        "If they are not what must go, write the questions without them, add retain rows that have them, or use "
        "`ScopeTerm`. `BenignTrigger` measures the harm."
    )

    def __init__(self, rate: float = 0.01, ratio: float = 4.0, least: int = 8) -> None:
        check_between("rate", rate, 0, 1)
        check_positive("ratio", ratio)
        check_whole("least", least)
        self.rate, self.ratio, self.least = rate, ratio, least

    @override
    def __call__(self, request: Request) -> Iterator[Finding]:
        from scipy import stats  # half a second

        if not request.forget or not request.retain:
            return
        words, tested = self._candidates(request)
        sides = [_counted(side, words) for side in (request.forget, request.retain)]
        tests = {word: over_represented(sides[0][word], sides[1][word]) for word in words}
        chances = [chance for _, chance in tests.values()]
        # Words that are no candidates are tests, too, whose chance is not small.
        rates = stats.false_discovery_control(chances + [1.0] * (tested - len(words))) if words else []
        for (word, (ratio, _)), rate in zip(tests.items(), rates, strict=False):
            if rate <= self.rate and ratio >= math.log(self.ratio) and len(sides[0][word].having) >= 3:
                some, others = (side[word] for side in sides)
                says = (
                    f"`{word}` stands in {some.rows} of {some.total} questions that must go, and in {others.rows} of "
                    f"{others.total} that stay."
                )
                rows = zip(request.forget.rows, request.forget.questions, strict=True)
                yield self.found(says, [row for row, question in rows if word in question])

    def _candidates(self, request: Request) -> tuple[list[str], int]:
        """Words that are frequent enough and no names, and how many words there are in all."""
        forget, retain = (
            Counter(word for question in side.questions for word in set(question)) for side in _sides(request)
        )
        often = {
            word: count
            for word, count in forget.items()
            if count >= self.least and count * len(request.retain) > retain[word] * len(request.forget)
        }
        capital = Counter(
            word.casefold()
            for row in request.forget.rows
            for word in _WORD.findall(row.question)[1:]
            if word[0].isupper()
        )
        return [word for word, count in often.items() if word.isalnum() and 2 * capital[word] < count], len(forget)


def _sides(request: Request) -> tuple[LintedRows, LintedRows]:
    return request.forget, request.retain


def _counted(side: LintedRows, words: Sequence[str]) -> dict[str, Counted]:
    entities = [row.entity for row in side.rows]
    sizes, wanted = Counter(entities), set(words)
    having: dict[str, Counter[str]] = {word: Counter() for word in words}
    for entity, question in zip(entities, side.questions, strict=True):
        for word in wanted.intersection(question):
            having[word][entity] += 1
    return {
        word: Counted(tuple(counts.values()), tuple(sizes[entity] for entity in counts), len(side), len(sizes))
        for word, counts in having.items()
    }
