from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

from typing_extensions import override

from lightning_unlearn.audits.leakage.styles._answer_style import AnswerStyle
from lightning_unlearn.audits.leakage.styles._answer_styles import answer_styles
from lightning_unlearn.data import FileRecords, MadeRecords, QuestionAnswer, Records
from lightning_unlearn.functional.settings import check_between, check_kind, check_whole


class AnswerStyles(MadeRecords):
    """Rows of which a share is asked in other answer styles, evenly: so that what is forgotten is no style of answering.

    Of each style as many rows as of any, as nearly as can be, and which is drawn. A row that cannot be asked in its style
    (a choice needs wrong answers of others) stays as it is.

    Args:
        records: The rows.
        share: How many of them are asked otherwise.
        styles: By name. Defaults to those of
            :func:`~lightning_unlearn.audits.leakage.styles.answer_styles` whose answer is the row's own, or known: all but
            ``"json"`` and ``"detailed"``.
        seed: Which rows, and in which style.

    Example:
        >>> people = FileRecords("bundled:people", entity="entity", where={"group": ["retain"]})
        >>> rows, own = AnswerStyles(people, share=0.5).questions(), people.questions()
        >>> sum(row.question != other.question for row, other in zip(rows, own))
        51

    References:
        Chen et al., `SEFE <https://arxiv.org/abs/2505.02486>`_, 2025, where a fifth is asked in four other styles.
    """

    def __init__(
        self,
        records: FileRecords | Records,
        share: float = 0.2,
        styles: Mapping[str, AnswerStyle] | None = None,
        seed: int = 0,
    ) -> None:
        check_kind("records", records, Records, example='FileRecords("people.jsonl")')
        check_between("share", share, 0, 1)
        check_whole("seed", seed, least=0)
        known = {name: style for name, style in answer_styles().items() if name not in ("json", "detailed")}
        chosen = known if styles is None else dict(styles)
        if not chosen:
            raise ValueError("`styles` should hold a style or more. Found none.")
        for style in chosen.values():
            check_kind("styles", style, AnswerStyle, example="MultipleChoice()")
        super().__init__()
        self.records, self.share, self.styles, self.seed = records, share, chosen, seed

    @override
    def make(self) -> Sequence[QuestionAnswer]:
        rows = list(self.records.questions())
        order = random.Random(self.seed).sample(range(len(rows)), round(self.share * len(rows)))
        names = list(self.styles)
        asked = {name: self.styles[name].ask(rows) for name in names}
        made = list(rows)
        for turn, place in enumerate(order):
            name = names[turn % len(names)]
            in_style = asked[name][place]
            if in_style.known is not None:
                row = in_style.row
                made[place] = replace(row, source=f"{rows[place].source} as {name}")
        return made
