from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

from typing_extensions import override

from lightning_unlearn.data._hashing import shuffled
from lightning_unlearn.data._loader_settings import LoaderSettings
from lightning_unlearn.data._paired_dataset import PairedDataset, pad_pairs
from lightning_unlearn.data._question_answer_data import QuestionAnswerData
from lightning_unlearn.data.companions import Companion
from lightning_unlearn.data.encodings import Encoding
from lightning_unlearn.data.records import FileRecords, QuestionAnswer, Record, Records
from lightning_unlearn.functional.settings import check_whole


class PairedData(QuestionAnswerData):
    """Questions whose answers must go, each with a companion: another answer, or another question.

    Batches are those of :class:`QuestionAnswerData` with one key more, ``companion``: a batch of as many rows. Whatever
    reads plain batches (teaching, probes, attacks) ignores that key and sees what must go. :class:`PairedReadout` reads
    both, :class:`CompanionReadout` the companions alone.

    Which companion a row gets depends on ``seed`` and on the row's number in its file alone. With several ``draws`` every
    row comes that many times, each time with another companion. All pairs are known before the first step, so a reference
    can be cached.

    Args:
        records: What must go. In YAML, a mapping without ``class_path`` is a :class:`FileRecords`.
        companion: What goes with each row.
        encoding: How rows become tokens.
        loader: How they are cut into batches.
        draws: How many different companions each row gets.
        seed: Of what is drawn.

    Raises:
        ValueError: If a row has fewer companions than ``draws``.

    Example:
        >>> from lightning_unlearn.data import Refusals
        >>> people = FileRecords("bundled:people", where={"group": ["forget"]})
        >>> data = PairedData(people, Refusals(), Encoding("bundled"))
        >>> data.dataset.companions[0].answer
        "I'm not sure about that."
        >>> sorted(next(iter(data.train_dataloader())))
        ['attention_mask', 'companion', 'input_ids', 'labels']
    """

    def __init__(
        self,
        records: FileRecords | Records,
        companion: Companion,
        encoding: Encoding,
        loader: LoaderSettings = LoaderSettings(),  # noqa: B008  # frozen
        *,
        draws: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(records, encoding, loader)
        check_whole("draws", draws)
        self.companion = companion
        self.draws = draws
        self.seed = seed

    @cached_property
    @override
    def dataset(self) -> PairedDataset:
        """The selected rows with their companions, encoded, ``draws`` rounds of them."""
        parsed = [(record, self.records.parse(record)) for record in self.records.selected]
        drawn = [self._draw(record, row) for record, row in parsed]
        self._refuse_too_few(drawn)
        # Round by round: every row comes once before any comes again. `PairedDataset` repeats its rows the same way.
        companions = [one[number] for number in range(self.draws) for one in drawn]
        return PairedDataset([self.companion.forget(*pair) for pair in parsed], companions, self.encoding)

    @override
    def collate(self) -> Callable[[Any], Any]:
        return partial(pad_pairs, pad=self.encoding.collate())

    def _draw(self, record: Record, row: QuestionAnswer) -> list[QuestionAnswer]:
        """``draws`` companions of one row, or as many as there are."""
        candidates = self.companion.candidates(record, row)
        # By the number in the file, not in the selection: `where` and `rows` do not change a row's companion.
        order = shuffled(len(candidates), self.seed, record.index)
        return [candidates[i] for i in order[: self.draws]]

    def _refuse_too_few(self, drawn: Sequence[Sequence[QuestionAnswer]]) -> None:
        counted = zip(self.records.selected, drawn, strict=True)
        if short := [f"{record.source} ({len(some)})" for record, some in counted if len(some) < self.draws]:
            named = ", ".join(short[:5]) + (", ..." if len(short) > 5 else "")
            raise ValueError(
                f"`{type(self.companion).__name__}` should know at least `draws = {self.draws}` different companions of "
                f"each row. Found fewer of {len(short)} of {len(drawn)}: {named}. {self.companion.advice}"
            )
