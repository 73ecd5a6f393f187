from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning_unlearn.data._loaders import rows_of, visited
from lightning_unlearn.data._question_answer_dataset import questions_in
from lightning_unlearn.data._source import OpenedSource
from lightning_unlearn.data.records import QuestionAnswer


def questions_of(part: OpenedSource) -> Sequence[QuestionAnswer]:
    """The questions and answers behind an opened source, each once.

    Raises:
        TypeError: If its rows are something else.
    """
    loader: Any = part.loader()
    dataset = getattr(loader, "dataset", None)
    found = questions_in(dataset if rows_of(loader) is None else visited(loader))
    if found is None:
        raise TypeError(
            f"`lint` should get {part.name} data of questions and answers: `QuestionAnswerData`, or a loader of a "
            f"`QuestionAnswerDataset`. Found `{type(loader if dataset is None else dataset).__name__}`. Leave `lint` out."
        )
    # Several draws of companions repeat each row.
    return list(dict.fromkeys(found[0]))
