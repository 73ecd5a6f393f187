from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from typing_extensions import override

from lightning_unlearn.data._encoded_data import EncodedData
from lightning_unlearn.data._loader_settings import LoaderSettings
from lightning_unlearn.data._text_dataset import TextDataset
from lightning_unlearn.data._text_windows import Document, TextWindows
from lightning_unlearn.data.encodings import pad_right
from lightning_unlearn.data.records import FileRecords, Record, Records
from lightning_unlearn.functional.settings import check_kind


class TextData(EncodedData):
    """Raw text for a causal language model, cut into windows of tokens: books, news, a corpus.

    For what must go and for what must stay, beside :class:`QuestionAnswerData` or alone. A document is a row with a field
    of text, a row that is a text, a ``.txt`` file, or a file of a folder of these. No window holds two documents. The
    windows of a document are about the same entity: by default each document is an entity of its own; with
    ``entity="file"`` each file is, with the name of another field whatever that field holds. The intervals of a
    report resample entities, so of one long book there are none: give its chapters as documents.

    Batches hold ``input_ids``, ``attention_mask`` and ``labels``, ``[B, T]`` int64, padded on the right, as those of
    :class:`QuestionAnswerData`.

    Args:
        records: Where the documents come from. In YAML, a mapping without ``class_path`` is a :class:`FileRecords`.
        windows: How they become windows of tokens.
        loader: How those are cut into batches.
        text: Field with the text.

    Example:
        >>> from lightning_unlearn.data import InMemoryRecords
        >>> news = InMemoryRecords([{"text": "Ada works in the post office."}, {"text": "Bo keeps a heron."}])
        >>> data = TextData(news, TextWindows("bundled", max_length=8), LoaderSettings(batch_size=4))
        >>> data.dataset.entities
        ['0', '0', '1']
        >>> sorted(next(iter(data.train_dataloader())))
        ['attention_mask', 'input_ids', 'labels']
    """

    def __init__(
        self,
        records: FileRecords | Records,
        windows: TextWindows,
        loader: LoaderSettings = LoaderSettings(),  # noqa: B008  # frozen
        *,
        text: str = "text",
    ) -> None:
        super().__init__(loader)
        check_kind("records", records, Records, example='FileRecords("news.txt")')
        check_kind("windows", windows, TextWindows, example='TextWindows("bundled")')
        self.records = records
        self.windows = windows
        self.text = text

    @cached_property
    @override
    def dataset(self) -> TextDataset:
        """The selected documents, in windows."""
        dataset = TextDataset([self._document(record) for record in self.records.selected], self.windows)
        if short := dataset.left_out:
            rank_zero_warn(
                f"{len(short)} of {len(dataset.documents)} documents of `{self.records.name}` have fewer than `shortest = "
                f"{self.windows.shortest}` tokens and are left out, the first {short[0].source}: they are neither forgotten "
                "nor kept. Leave them out with `where` or `rows`."
            )
        return dataset

    @override
    def collate(self) -> Callable[[Any], Any]:
        # Any padding id will do, since mask and labels hide it; every network has an embedding for 0.
        return partial(pad_right, pad_token_id=0)

    def _document(self, record: Record) -> Document:
        # MUSE's files are lists of texts.
        whole: object = record.fields
        text = whole if isinstance(whole, str) else record.text(self.text)
        return Document(text, record.about(self.records.entity), record.source)
