from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from typing_extensions import override

from lightning_unlearn.data._loader_settings import LoaderSettings
from lightning_unlearn.data._question_answer_data import QuestionAnswerData
from lightning_unlearn.data._text_data import TextData
from lightning_unlearn.data._text_windows import TextWindows
from lightning_unlearn.data.encodings import Encoding
from lightning_unlearn.data.orders import Order
from lightning_unlearn.data.records import FileRecords, Records
from lightning_unlearn.data.sets._published_data import PublishedData
from lightning_unlearn.data.sets._some_entities import SomeEntities
from lightning_unlearn.functional.settings import check_whole

DEPTHS = {"memorization": "mem", "semantic": "gen", "composition": "hard_gen"}
"""How deep a fact is asked for, and how the fields for it begin."""


class KnowledgeProbes(Records):
    """Five sentences to be ended about each passage.

    Args:
        records: The passages.
        depth: ``"memorization"`` (as the passage says it), ``"semantic"`` (in other words), or ``"composition"``.
    """

    def __init__(self, records: FileRecords, depth: str) -> None:
        super().__init__(entity="entity")
        self.records, self.depth = records, depth

    @property
    @override
    def name(self) -> str:
        return f"{self.depth} of {self.records.name}"

    @override
    def read(self) -> Iterable[Any]:
        begin = DEPTHS[self.depth]
        for record in self.records.selected:
            inputs, targets = record.fields[f"{begin}_input"], record.fields[f"{begin}_target"]
            for question, answer in zip(inputs, targets, strict=True):
                yield {"question": question, "answer": answer, "entity": record.about(None)}


class FictionalKnowledgeData(PublishedData):
    """Invented encyclopedia passages, and for each fifteen sentences to be ended, of three depths.

    Every passage is an entity: some must go, some must stay, some are told to nobody. The beginnings of sentences are
    probes: ``memorization`` as the passage says it, ``semantic`` in other words, ``composition`` what follows from several
    sentences; ``retain_memorization`` and so on of what must stay, ``holdout_memorization`` and so on of what nobody was
    told.

    Args:
        folder: With ``fictional_knowledge.jsonl``.
        windows: How passages become tokens.
        encoding: How beginnings of sentences do, as questions.
        forget: How many passages must go.
        retain: How many must stay.
        holdout: How many are told to nobody.
        passage_seed: Which ones.
        loader: How rows are cut into batches.
        order: As in :class:`ForgetRetainData`, and so is ``seed``.
        seed: Of the order.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If there are not so many passages.

    Example:
        >>> data = FictionalKnowledgeData("here", TextWindows("bundled"), Encoding("bundled"))  # doctest: +SKIP

    References:
        Chang et al., `How Do Large Language Models Acquire Factual Knowledge During Pretraining?
        <https://arxiv.org/abs/2406.11813>`_, 2024.
    """

    called = "Fictional Knowledge"
    address = "https://github.com/kaistAI/factual-knowledge-acquisition"
    licence = "Apache-2.0 as stated there."

    def __init__(
        self,
        folder: str,
        windows: TextWindows,
        encoding: Encoding,
        forget: int = 10,
        retain: int = 90,
        holdout: int = 10,
        passage_seed: int = 0,
        loader: LoaderSettings = LoaderSettings(),  # noqa: B008  # frozen
        order: Order | None = None,
        seed: int = 0,
    ) -> None:
        check_whole("forget", forget)
        check_whole("retain", retain)
        check_whole("holdout", holdout, least=0)
        check_whole("passage_seed", passage_seed, least=0)
        passages = self.files(folder).records("fictional_knowledge")
        parts = {"forget": (forget, 0), "retain": (retain, forget), "holdout": (holdout, forget + retain)}
        asked = {name: of for name, of in parts.items() if of[0]}

        def some(records: Records, name: str) -> SomeEntities:
            return SomeEntities(records, *parts[name], passage_seed)

        def told(name: str) -> TextData:
            return TextData(some(passages, name), windows, loader, text="train_context")

        probes: dict[str, Any] = {
            f"{'' if name == 'forget' else f'{name}_'}{depth}": QuestionAnswerData(
                some(KnowledgeProbes(passages, depth), name), encoding, loader
            )
            for name in asked
            for depth in DEPTHS
        }
        probes |= {"holdout": told("holdout")} if holdout else {}
        super().__init__(retain=told("retain"), forget=told("forget"), order=order, seed=seed, probes=probes)
