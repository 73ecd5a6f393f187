from __future__ import annotations

from typing import Any

from lightning_unlearn.data._loader_settings import LoaderSettings
from lightning_unlearn.data._question_answer_data import QuestionAnswerData
from lightning_unlearn.data._text_data import TextData
from lightning_unlearn.data._text_windows import TextWindows
from lightning_unlearn.data.encodings import Encoding
from lightning_unlearn.data.orders import Order
from lightning_unlearn.data.sets._of_entities import OfEntities
from lightning_unlearn.data.sets._published_data import PublishedData
from lightning_unlearn.data.sets._some_entities import SomeEntities
from lightning_unlearn.functional.settings import check_whole

_LEVELS = ("forget_level1", "forget_level2", "forget_level3", "neighbor_level1", "neighbor_level2")


class RWKUData(PublishedData):
    """RWKU: famous people whom a model knows from its pretraining, some of whom must go.

    Each person, the ``subject`` of a row, is an entity. Forget data are texts about some that the model wrote itself
    (``train_positive_llama3``); RWKU gives no retain data, so that those about further people are taken. Probes, of the
    people that must go and where their files are there: ``forget_level1`` (blanks to fill), ``forget_level2`` (questions),
    ``forget_level3`` (nine kinds of adversarial questions), ``neighbor_level1`` and ``neighbor_level2`` (what is near, and
    must stay). ``retain_level1`` to ``3`` ask of those who must stay.

    Args:
        folder: With ``forget_level1.json``, ``train_positive_llama3.json`` and so on, or
            ``hf://datasets/jinzhuoran/RWKU``.
        windows: How texts become tokens.
        encoding: How questions do.
        forget: How many people must go, drawn with ``people_seed``.
        retain: How many others must stay.
        people_seed: Whom.
        corpus: Which texts: those of ``"train_positive_llama3"``, or ``"train_positive_phi3"``.
        loader: How rows are cut into batches.
        order: As in :class:`ForgetRetainData`, and so is ``seed``.
        seed: Of the order.

    Raises:
        FileNotFoundError: If the texts are missing.

    Example:
        >>> RWKUData("rwku", TextWindows("bundled"), Encoding("bundled"), forget=10)  # doctest: +SKIP

    References:
        Jin et al., `RWKU <https://arxiv.org/abs/2406.10890>`_, 2024.
    """

    called = "RWKU"
    address = "https://huggingface.co/datasets/jinzhuoran/RWKU"
    licence = "see there; its texts are about real people, written by language models."

    def __init__(
        self,
        folder: str,
        windows: TextWindows,
        encoding: Encoding,
        forget: int = 1,
        retain: int = 20,
        people_seed: int = 0,
        corpus: str = "train_positive_llama3",
        loader: LoaderSettings = LoaderSettings(),  # noqa: B008  # frozen
        order: Order | None = None,
        seed: int = 0,
    ) -> None:
        check_whole("forget", forget)
        check_whole("retain", retain)
        check_whole("people_seed", people_seed, least=0)
        files = self.files(folder)
        texts = files.records(corpus, entity="subject")
        gone = SomeEntities(texts, forget, seed=people_seed)
        stays = SomeEntities(texts, retain, skip=forget, seed=people_seed)
        people = {
            part: list(dict.fromkeys(record.about("subject") for record in some.selected))
            for part, some in (("forget", gone), ("retain", stays))
        }

        def asked(part: str, level: str) -> QuestionAnswerData:
            rows = files.records(level, "test", question="query", answer="answer", entity="subject")
            return QuestionAnswerData(OfEntities(rows, people[part]), encoding, loader)

        levels = [level for level in _LEVELS if files.has(level, "test")]
        probes: dict[str, Any] = {level: asked("forget", level) for level in levels}
        further = [level for level in levels if level.startswith("forget")]
        probes |= {level.replace("forget", "retain"): asked("retain", level) for level in further}
        super().__init__(
            retain=TextData(stays, windows, loader),
            forget=TextData(gone, windows, loader),
            order=order,
            seed=seed,
            probes=probes,
        )
