from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from typing_extensions import override

from lightning_unlearn.data._loader_settings import LoaderSettings
from lightning_unlearn.data._question_answer_data import QuestionAnswerData
from lightning_unlearn.data._text_data import TextData
from lightning_unlearn.data._text_windows import TextWindows
from lightning_unlearn.data.encodings import Encoding
from lightning_unlearn.data.orders import Order
from lightning_unlearn.data.records import FileRecords, Records
from lightning_unlearn.data.sets._joined_records import JoinedRecords
from lightning_unlearn.data.sets._published_data import PublishedData
from lightning_unlearn.data.sets._reduced import Reduced, some

_DOMAINS = ("bio", "cyber")


class ChoiceAnswers(Records):
    """Questions with several choices, each with the right one as its answer, or with all wrong ones in turn.

    Args:
        records: Rows with ``question``, ``choices`` and ``answer``, the number of the right one.
        right: Whether right answers are given, or wrong ones.
    """

    def __init__(self, records: FileRecords, right: bool = True) -> None:
        super().__init__(entity="entity")
        self.records, self.right = records, right

    @property
    @override
    def name(self) -> str:
        return self.records.name

    @override
    def read(self) -> Iterable[Any]:
        for record in self.records.selected:
            choices, answer = record["choices"], int(record["answer"])
            for number, choice in enumerate(choices):
                if (number == answer) == self.right:
                    yield {"question": record["question"], "answer": choice, "entity": f"question {record.index}"}


class WMDPData(PublishedData):
    """WMDP: papers and code about hazards that must go, beside harmless ones of the same fields, and questions with choices.

    Every document is an entity. Probes, where the file of a field's questions is there: ``bio`` with the right answer,
    ``bio_perturbed`` with the three wrong ones, and so on, as :class:`TOFU`'s option probability reads them.

    Args:
        folder: With ``cyber-forget-corpus.jsonl``, ``cyber-retain-corpus.jsonl`` and so on, and ``wmdp-cyber.json`` or
            ``cyber_questions.json``; or ``hf://datasets/cais/wmdp-corpora``, then without questions. The corpus ``bio`` that
            must go is given on request only.
        windows: How documents become tokens.
        encoding: How questions do.
        domains: Of ``"bio"`` and ``"cyber"``.
        reduced: A smaller version, by documents of each domain.
        loader: How rows are cut into batches.
        order: As in :class:`ForgetRetainData`, and so is ``seed``.
        seed: Of the order.

    Raises:
        FileNotFoundError: If a corpus is missing.

    Example:
        >>> WMDPData("wmdp", TextWindows("bundled"), Encoding("bundled"), domains=["cyber"])  # doctest: +SKIP

    References:
        Li et al., `The WMDP Benchmark <https://arxiv.org/abs/2403.03218>`_, 2024.
    """

    called = "WMDP"
    address = "https://huggingface.co/datasets/cais/wmdp-corpora"
    licence = (
        "MIT as stated there; the corpus of biology that must go is given on request only, and may not be passed on."
    )

    def __init__(
        self,
        folder: str,
        windows: TextWindows,
        encoding: Encoding,
        domains: Sequence[str] = ("cyber",),
        reduced: Reduced | None = None,
        loader: LoaderSettings = LoaderSettings(),  # noqa: B008  # frozen
        order: Order | None = None,
        seed: int = 0,
    ) -> None:
        if isinstance(domains, str) or not domains or not set(domains) <= set(_DOMAINS):
            raise ValueError(f"`domains` should be a list of {' and '.join(_DOMAINS)}. Found `domains = {domains!r}`.")
        files = self.files(folder)

        def corpus(part: str) -> TextData:
            parts = [some(files.records(f"{domain}-{part}-corpus"), reduced, part) for domain in domains]
            return TextData(JoinedRecords(parts), windows, loader)

        probes: dict[str, Any] = {}
        for domain in domains:
            for name in (f"{domain}_questions", f"wmdp-{domain}"):
                if not folder.startswith("hf://") and files.has(name, "test"):
                    for ending, right in (("", True), ("_perturbed", False)):
                        answers = ChoiceAnswers(files.records(name, "test"), right)
                        probes[f"{domain}{ending}"] = QuestionAnswerData(answers, encoding, loader)
        super().__init__(retain=corpus("retain"), forget=corpus("forget"), order=order, seed=seed, probes=probes)
