from __future__ import annotations

from collections.abc import Sequence

from torch.utils.data import Dataset

from lightning_unlearn.data._text_windows import Document, TextWindows
from lightning_unlearn.data.encodings import Batch


class TextDataset(Dataset[Batch]):
    """The windows of some documents, each ``{"input_ids": [T], "labels": [T]}`` with -100 where nothing is supervised.

    Args:
        documents: In the order in which their windows come; no window holds two.
        windows: How they are cut.

    Raises:
        ValueError: If no document is long enough for a window.

    Example:
        >>> ada = Document("Ada works in the post office.", entity="Ada", source="row 0")
        >>> TextDataset([ada], TextWindows("bundled", max_length=8)).entities
        ['Ada', 'Ada']
    """

    def __init__(self, documents: Sequence[Document], windows: TextWindows) -> None:
        self.documents = tuple(documents)
        self.windows = windows
        cut = [(document, windows(document.text)) for document in self.documents]
        self.left_out = tuple(document for document, found in cut if not found)
        """Documents too short for any window."""
        self._windows = [(document, window) for document, found in cut for window in found]
        if not self._windows:
            raise ValueError(
                f"Documents should have at least `shortest = {windows.shortest}` tokens. Found none in "
                f"{len(self.documents)}, the first {self.documents[0].source if self.documents else 'missing'}."
            )

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: int) -> Batch:
        return self._windows[index][1]

    @property
    def entities(self) -> list[str]:
        """The entity that each window is about."""
        return [document.entity for document, _ in self._windows]

    @property
    def texts(self) -> list[str]:
        """The text of each window."""
        return [str(self.windows.tokenizer.decode(window["input_ids"])) for _, window in self._windows]
