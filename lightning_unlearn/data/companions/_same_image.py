from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from typing_extensions import override

from lightning_unlearn.data.companions._companion import Companion
from lightning_unlearn.data.records import FileRecords, Picture, QuestionAnswer, Record, Records
from lightning_unlearn.functional.settings import check_kind


class SameImage(Companion):
    """Another question about the same image, whose answer must stay: for :class:`PromptDecouple`.

    What must go is the way from the image to one fact. Harmless questions about the image are still answered, so that the
    network does not learn to refuse, or to mistake, the image as a whole. :class:`DecoupledQuestion` is the other half: the
    same question about another image.

    Args:
        records: Questions about images whose answers must stay.

    Raises:
        ValueError: When the first companion is drawn, if one of ``records`` has no image.

    Example:
        >>> import torch
        >>> from lightning_unlearn.data import InMemoryRecords
        >>> seen = torch.zeros(1, 4, 4)
        >>> asked = [{"question": "Is it alive?", "answer": "yes", "image": seen},
        ...          {"question": "Is it alive?", "answer": "no", "image": seen + 1}]
        >>> row = QuestionAnswer("What is it?", "a cat", "cat", "row 0", image=Picture(seen))
        >>> [other.answer for other in SameImage(InMemoryRecords(asked, image="image")).candidates(Record({}, 0, ""), row)]
        ['yes']

    References:
        Chen et al., `SafeEraser <https://arxiv.org/abs/2502.12520>`_, 2025, decouples a text from its image; this is the
        same for an image and its texts.
    """

    advice = "Keep more `records`, which ask something else about the same images, or take fewer `draws`."

    def __init__(self, records: FileRecords | Records) -> None:
        check_kind("records", records, Records, example='FileRecords("asked.jsonl", image="file")')
        self.records = records

    @override
    def candidates(self, record: Record, row: QuestionAnswer) -> Sequence[QuestionAnswer]:
        others = [other for other in self._by_image.get(row.image, []) if other.question != row.question]
        return list({(other.question, other.answer): other for other in reversed(others)}.values())[::-1]

    @cached_property
    def _by_image(self) -> dict[Picture | None, list[QuestionAnswer]]:
        by_image: dict[Picture | None, list[QuestionAnswer]] = {}
        for other in self.records.questions():
            if other.image is None:
                raise ValueError(
                    f"`records` of `SameImage` should be questions about images. Found none in {other.source}. Name the "
                    "field with it: `image='image'`."
                )
            by_image.setdefault(other.image, []).append(other)
        return by_image
