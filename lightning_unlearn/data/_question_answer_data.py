from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

from typing_extensions import override

from lightning_unlearn.data._encoded_data import EncodedData
from lightning_unlearn.data._loader_settings import LoaderSettings
from lightning_unlearn.data._question_answer_dataset import QuestionAnswerDataset
from lightning_unlearn.data._text_windows import TextWindows
from lightning_unlearn.data.encodings import Encoding
from lightning_unlearn.data.records import FileRecords, Records
from lightning_unlearn.functional.settings import check_kind


class QuestionAnswerData(EncodedData):
    """Questions and answers for a causal language model, supervised on the answer and on its end of turn.

    Batches hold ``input_ids``, ``attention_mask`` and ``labels``, ``[B, T]`` int64, padded on the right; the labels are
    unshifted as in Hugging Face and -100 on prompt and padding. Training, validation and test loaders go over the
    same rows, only the first shuffled.

    Args:
        records: Where the rows come from. In YAML, a mapping without ``class_path`` is a :class:`FileRecords`.
        encoding: How rows become tokens.
        loader: How they are cut into batches.

    Example:
        >>> people = FileRecords("bundled:people", entity="entity", where={"group": ["forget"]})
        >>> data = QuestionAnswerData(people, Encoding("bundled"), LoaderSettings(batch_size=6))
        >>> sorted(set(data.dataset.entities))
        ['Maribel Okonvane', 'Renzo Dappleworth', 'Ysolde Tamarisk']
        >>> sorted(next(iter(data.train_dataloader())))
        ['attention_mask', 'input_ids', 'labels']
    """

    def __init__(
        self,
        records: FileRecords | Records,
        encoding: Encoding,
        loader: LoaderSettings = LoaderSettings(),  # noqa: B008  # frozen
    ) -> None:
        super().__init__(loader)
        check_kind("records", records, Records, example='FileRecords("people.jsonl")')
        given: object = encoding
        if isinstance(given, TextWindows):
            raise TypeError(
                f"`encoding` of `{type(self).__name__}` should be an `Encoding`, for questions and answers. Found "
                "`TextWindows`: raw text has neither. Use `TextData`."
            )
        check_kind("encoding", encoding, Encoding, example='Encoding("bundled")')
        self.records = records
        self.encoding = encoding

    @cached_property
    @override
    def dataset(self) -> QuestionAnswerDataset:
        """The selected rows, encoded."""
        return QuestionAnswerDataset(self.records.questions(), self.encoding)

    @override
    def collate(self) -> Callable[[Any], Any]:
        """How rows of :attr:`dataset` become a batch."""
        return self.encoding.collate()
