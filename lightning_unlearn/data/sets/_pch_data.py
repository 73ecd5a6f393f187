from __future__ import annotations

from typing import Any

from lightning_unlearn.data._loader_settings import LoaderSettings
from lightning_unlearn.data._question_answer_data import QuestionAnswerData
from lightning_unlearn.data._text_data import TextData
from lightning_unlearn.data._text_windows import TextWindows
from lightning_unlearn.data.encodings import Encoding
from lightning_unlearn.data.orders import Order
from lightning_unlearn.data.records import Records
from lightning_unlearn.data.sets._published_data import PublishedData
from lightning_unlearn.data.sets._some_entities import SomeEntities
from lightning_unlearn.functional.settings import check_whole


class PCHData(PublishedData):
    """PCH: private, copyrighted and harmful texts that must go one after the other: one request of a sequence.

    Every text is an entity, and a request. They come in an order that depends on ``request_seed``. In request ``k`` text
    ``k`` must go, and those that no request up to it has named must stay. Probes: ``forget_qa``, the question about this
    text; ``earlier_qa``, those about earlier requests, which must still be gone; ``retain_qa``, those about the texts that
    stay.

    The published script shuffles texts, questions and answers one after the other, so that they no longer belong
    together. Here one order is that of all three.

    Args:
        folder: With ``PCH.jsonl`` (``text``) and ``PCH_QA.jsonl`` (``question``, ``answer``), as many rows in both.
        windows: How texts become tokens.
        encoding: How questions do.
        request: Number of the request, from 0.
        requests: How many there are; the texts after them are named by none.
        request_seed: Of their order.
        loader: How rows are cut into batches.
        order: As in :class:`ForgetRetainData`, and so is ``seed``.
        seed: Of the order.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If there is no such request.

    Example:
        >>> PCHData("pch", TextWindows("bundled"), Encoding("bundled"), request=3)  # doctest: +SKIP

    References:
        Xu et al., `FIT <https://arxiv.org/abs/2601.21682>`_, 2026.
    """

    called = "PCH"
    address = "https://huggingface.co/FITPCH"
    licence = "none is stated where we looked; its texts are of a sensitive kind. Ask before you pass them on."

    def __init__(
        self,
        folder: str,
        windows: TextWindows,
        encoding: Encoding,
        request: int = 0,
        requests: int = 300,
        request_seed: int = 0,
        loader: LoaderSettings = LoaderSettings(),  # noqa: B008  # frozen
        order: Order | None = None,
        seed: int = 0,
    ) -> None:
        check_whole("request", request, least=0)
        check_whole("requests", requests)
        check_whole("request_seed", request_seed, least=0)
        if request >= requests:
            raise ValueError(f"`request` should be below `requests = {requests}`. Found `request = {request}`.")
        files = self.files(folder)
        texts, questions = files.records("PCH"), files.records("PCH_QA")
        if len(texts.selected) != len(questions.selected):
            raise ValueError(
                f"PCH should have a question for each text. Found {len(texts.selected)} texts and "
                f"{len(questions.selected)} questions in `{folder}`."
            )

        def some(records: Records, count: int | None, skip: int) -> SomeEntities:
            return SomeEntities(records, count, skip, request_seed)

        parts: dict[str, tuple[int | None, int]] = {"forget": (1, request), "retain": (None, request + 1)}
        asked = parts | ({"earlier": (request, 0)} if request else {})
        probes: dict[str, Any] = {
            f"{name}_qa": QuestionAnswerData(some(questions, *of), encoding, loader) for name, of in asked.items()
        }
        super().__init__(
            retain=TextData(some(texts, *parts["retain"]), windows, loader),
            forget=TextData(some(texts, *parts["forget"]), windows, loader),
            order=order,
            seed=seed,
            probes=probes,
        )
