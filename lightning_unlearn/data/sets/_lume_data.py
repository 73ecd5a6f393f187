from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from typing_extensions import override

from lightning_unlearn.data._loader_settings import LoaderSettings
from lightning_unlearn.data._question_answer_data import QuestionAnswerData
from lightning_unlearn.data.encodings import Encoding
from lightning_unlearn.data.orders import Order
from lightning_unlearn.data.records import FileRecords, Records
from lightning_unlearn.data.sets._published_data import PublishedData
from lightning_unlearn.data.sets._reduced import Reduced, some

_TASKS = ("Task1", "Task2", "Task3")
_ENDING = re.compile(r"(?:qa|sc)\d+$")


class LUMERows(Records):
    """Rows of LUME, each about the document that its ``id`` begins with.

    Args:
        records: With ``id``, ``input``, ``output`` and ``task``.
        tasks: Those that are kept.
        kind: Endings of an ``id`` that are kept: ``"qa"`` for questions, ``"sc"`` for passages, ``""`` for both.
    """

    def __init__(self, records: FileRecords, tasks: Sequence[str] = _TASKS, kind: str = "") -> None:
        super().__init__(entity="entity", where={"kept": ["yes"]})
        self.records, self.tasks, self.kind = records, tuple(tasks), kind

    @property
    @override
    def name(self) -> str:
        return self.records.name

    @override
    def read(self) -> Iterable[Any]:
        for record in self.records.selected:
            number = record.text("id")
            ending = _ENDING.search(number)
            kept = record["task"] in self.tasks and ending is not None and ending[0].startswith(self.kind)
            yield {
                "question": record["input"],
                "answer": record["output"],
                # Some are written with quotes around the document's name, and some without.
                "entity": _ENDING.sub("", number).strip('"'),
                "kept": "yes" if kept else "no",
            }


class LUMEData(PublishedData):
    """LUME: invented stories, invented people with private data, and real biographies, half of which must go.

    Each document or person is an entity. A row is a question, or the beginning of a passage with what follows. Probes
    beside forget and retain data: ``forget_qa`` and ``forget_sc``, ``retain_qa`` and ``retain_sc``, questions and passages
    by themselves.

    Args:
        folder: With ``forget.jsonl`` and ``retain.jsonl``.
        encoding: How rows become tokens.
        tasks: Of ``"Task1"`` (stories), ``"Task2"`` (private data) and ``"Task3"`` (biographies).
        reduced: A smaller version.
        loader: How rows are cut into batches.
        order: As in :class:`ForgetRetainData`, and so is ``seed``.
        seed: Of the order.

    Raises:
        FileNotFoundError: If a file is missing.

    Example:
        >>> LUMEData("lume", Encoding("bundled"), tasks=["Task2"])  # doctest: +SKIP

    References:
        Ramakrishna et al., `LUME <https://arxiv.org/abs/2502.15097>`_, 2025; of SemEval 2025, task 4.
    """

    called = "LUME"
    address = "https://github.com/amazon-science/lume-llm-unlearning"
    licence = "Apache-2.0 as stated there; Task3 is of Wikipedia."

    def __init__(
        self,
        folder: str,
        encoding: Encoding,
        tasks: Sequence[str] = _TASKS,
        reduced: Reduced | None = None,
        loader: LoaderSettings = LoaderSettings(),  # noqa: B008  # frozen
        order: Order | None = None,
        seed: int = 0,
    ) -> None:
        if isinstance(tasks, str) or not tasks or not set(tasks) <= set(_TASKS):
            raise ValueError(f"`tasks` should be a list of some of {', '.join(_TASKS)}. Found `tasks = {tasks!r}`.")
        files = self.files(folder)

        def part(split: str, kind: str = "") -> QuestionAnswerData:
            rows = LUMERows(files.records(split, split), tasks, kind)
            return QuestionAnswerData(some(rows, reduced, split), encoding, loader)

        kinds = [(split, kind) for split in ("forget", "retain") for kind in ("qa", "sc")]
        probes: dict[str, Any] = {f"{split}_{kind}": part(split, kind) for split, kind in kinds}
        super().__init__(retain=part("retain"), forget=part("forget"), order=order, seed=seed, probes=probes)
