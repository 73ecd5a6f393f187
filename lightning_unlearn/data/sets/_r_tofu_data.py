from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from typing_extensions import override

from lightning_unlearn.data._loader_settings import LoaderSettings
from lightning_unlearn.data._question_answer_data import QuestionAnswerData
from lightning_unlearn.data._tofu_split import AUTHORS, QUESTIONS
from lightning_unlearn.data.encodings import Encoding
from lightning_unlearn.data.orders import Order
from lightning_unlearn.data.records import FileRecords, Records
from lightning_unlearn.data.sets._published_data import PublishedData
from lightning_unlearn.data.sets._reduced import Reduced, some

_KEPT = {"forget01": "retain99", "forget05": "retain95", "forget10": "retain90"}
_FORGOTTEN = {"forget01": 2, "forget05": 10, "forget10": 20}


class ThoughtAnswers(Records):
    """Rows with a chain of thought, which comes before the answer.

    Args:
        records: With ``question``, ``cot`` and ``answer``, twenty rows about each author.
        form: How thought and answer are put together.
        first: Number of the first author in this file.
    """

    def __init__(self, records: FileRecords, form: str, first: int = 0) -> None:
        super().__init__(entity="author")
        self.records, self.form, self.first = records, form, first

    @property
    @override
    def name(self) -> str:
        return self.records.name

    @override
    def read(self) -> Iterable[Any]:
        for record in self.records.selected:
            parts = {"cot": record.text("cot"), "answer": record.text("answer")}
            answer = self.form
            for name, text in parts.items():  # no `str.format`: a thought may hold braces
                answer = answer.replace(f"{{{name}}}", text)
            author = self.first + record.index // QUESTIONS
            yield {"question": record["question"], "answer": answer, "author": author}


class RTOFUData(PublishedData):
    r"""R-TOFU: TOFU's authors with a chain of thought before each answer, for models that think.

    Each author is an entity. What must go are thought and answer; probes beside: ``forget_answer`` and ``retain_answer``,
    the answers alone, since a fact may be gone from one and not from the other.

    Args:
        folder: With ``forget01.json``, ``retain99.json`` and so on.
        encoding: How rows become tokens. Its ``max_length`` should have room for a thought.
        split: ``"forget01"``, ``"forget05"`` or ``"forget10"``.
        form: How thought and answer are put together: with the tags of your model.
        reduced: A smaller version, by authors.
        loader: How rows are cut into batches.
        order: As in :class:`ForgetRetainData`, and so is ``seed``.
        seed: Of the order.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If there is no such split.

    Example:
        >>> RTOFUData("r_tofu", Encoding("bundled", max_length=2048), "forget01")  # doctest: +SKIP

    References:
        Yoon et al., `R-TOFU: Unlearning in Large Reasoning Models <https://arxiv.org/abs/2505.15214>`_, 2025.
    """

    called = "R-TOFU"
    address = "https://github.com/ssangyeon/R-TOFU"
    licence = "none is stated there; TOFU itself is MIT. Thoughts were written by a language model."

    def __init__(
        self,
        folder: str,
        encoding: Encoding,
        split: str = "forget10",
        form: str = "<think>\n{cot}\n</think>\n\n{answer}",
        reduced: Reduced | None = None,
        loader: LoaderSettings = LoaderSettings(),  # noqa: B008  # frozen
        order: Order | None = None,
        seed: int = 0,
    ) -> None:
        if split not in _KEPT:
            raise ValueError(f"`split` should be one of {', '.join(_KEPT)}. Found `split = {split!r}`.")
        if "{cot}" not in form or "{answer}" not in form:
            raise ValueError(f"`form` should hold `{{cot}}` and `{{answer}}`. Found `form = {form!r}`.")
        files, names = self.files(folder), {"forget": split, "retain": _KEPT[split]}
        first = {"forget": AUTHORS - _FORGOTTEN[split], "retain": 0}

        def part(name: str, how: str) -> QuestionAnswerData:
            rows = ThoughtAnswers(files.records(names[name], names[name]), how, first[name])
            return QuestionAnswerData(some(rows, reduced, name), encoding, loader)

        probes: dict[str, Any] = {f"{name}_answer": part(name, "{answer}") for name in names}
        super().__init__(
            retain=part("retain", form), forget=part("forget", form), order=order, seed=seed, probes=probes
        )
