from __future__ import annotations

from typing import Any, Literal, get_args

from lightning_unlearn.data._loader_settings import LoaderSettings
from lightning_unlearn.data._question_answer_data import QuestionAnswerData
from lightning_unlearn.data._text_data import TextData
from lightning_unlearn.data._text_windows import TextWindows
from lightning_unlearn.data.encodings import Encoding
from lightning_unlearn.data.orders import Order
from lightning_unlearn.data.sets._published_data import PublishedData
from lightning_unlearn.data.sets._reduced import Reduced, some
from lightning_unlearn.functional.settings import check_kind

Corpus = Literal["news", "books"]


class MUSEData(PublishedData):
    """MUSE: news articles or books that must go, judged by what is known, what is said word by word, and what leaks.

    Every document is an entity. Forget data are ``raw/forget``, retain data ``raw/retain1``. Probes, where their files are
    there: ``knowmem_forget`` and ``knowmem_retain`` are questions, ``verbmem`` beginnings of passages with what follows,
    ``privleak_forget``, ``privleak_retain`` and ``holdout`` texts, the last of which nobody was trained on.

    Args:
        folder: With ``raw/forget.json`` and so on, as the benchmark's own script writes them or the hub stores them, or
            ``hf://datasets/muse-bench/MUSE-News``, or ``MUSE-Books``.
        windows: How documents become tokens.
        encoding: How questions do. The published evaluation asks in plain text.
        corpus: ``"news"`` or ``"books"``, whose splits of questions have other names.
        forget: What must go: ``"raw/forget"``, or of the news also ``"scal/forget_1"`` to ``4``, growing requests, and
            ``"sust/forget_1"`` to ``4``, requests in turn.
        reduced: A smaller version.
        loader: How rows are cut into batches.
        order: As in :class:`ForgetRetainData`, and so is ``seed``.
        seed: Of the order.

    Raises:
        FileNotFoundError: If a file of the forget or retain data is missing.

    Example:
        >>> data = MUSEData("muse_news", TextWindows("bundled"), Encoding("bundled"))  # doctest: +SKIP
        >>> sorted(data.probes)  # doctest: +SKIP
        ['holdout', 'knowmem_forget', 'knowmem_retain', 'privleak_forget', 'privleak_retain', 'verbmem']

    References:
        Shi et al., `MUSE: Machine Unlearning Six-Way Evaluation <https://arxiv.org/abs/2407.06460>`_, 2024.
    """

    called = "MUSE"
    address = "https://huggingface.co/muse-bench"
    licence = "CC BY 4.0 as stated there; the news are articles of the BBC, the books are under copyright."

    def __init__(
        self,
        folder: str,
        windows: TextWindows,
        encoding: Encoding,
        corpus: Corpus = "news",
        forget: str = "raw/forget",
        reduced: Reduced | None = None,
        loader: LoaderSettings = LoaderSettings(),  # noqa: B008  # frozen
        order: Order | None = None,
        seed: int = 0,
    ) -> None:
        check_kind("encoding", encoding, Encoding, example='Encoding("llama", template="plain")')
        if corpus not in get_args(Corpus):
            raise ValueError(f'`corpus` should be "news" or "books". Found `corpus = {corpus!r}`.')
        part, slash, named = forget.partition("/")
        if not slash or part not in ("raw", "scal", "sust"):
            raise ValueError(
                f'`forget` should be such as "raw/forget" or "scal/forget_2". Found `forget = {forget!r}`.'
            )
        files, retained = self.files(folder), "retain" if corpus == "news" else "retain2"

        def texts(part: str, split: str, of: str) -> TextData:
            return TextData(some(files.records(part, split), reduced, of), windows, loader)

        def asked(part: str, split: str, **columns: str) -> QuestionAnswerData:
            return QuestionAnswerData(files.records(part, split, **columns), encoding, loader)

        probes: dict[str, Any] = {}
        for name, split in (("knowmem_forget", "forget_qa"), ("knowmem_retain", f"{retained}_qa")):
            if files.has("knowmem", split):
                probes[name] = asked("knowmem", split)
        if files.has("verbmem", "forget"):
            probes["verbmem"] = asked("verbmem", "forget", question="prompt", answer="gt")
        for name, split in (("privleak_forget", "forget"), ("privleak_retain", "retain"), ("holdout", "holdout")):
            if files.has("privleak", split):
                probes[name] = TextData(files.records("privleak", split), windows, loader)
        super().__init__(
            retain=texts("raw", "retain1", "retain"),
            forget=texts(part, named, "forget"),
            order=order,
            seed=seed,
            probes=probes,
        )
