from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from typing_extensions import override

from lightning_unlearn.data.records import Picture, Records
from lightning_unlearn.data.vision._images import Images
from lightning_unlearn.functional.settings import check_kind


@dataclass(frozen=True)
class Ask:
    """What is asked about every image, and the answer for each class.

    Args:
        name: Of the question: a field of the rows.
        question: The words.
        answers: One for each class, by its number; several classes may have one answer.
    """

    name: str
    question: str
    answers: Sequence[str]


class ImageQuestions(Records):
    """Questions about images whose answers follow from their class: what is in it, and of which kind that is.

    Rows come image by image. The fields of a row are ``image``, ``question``, ``answer``, ``asks`` (the name of what is
    asked), and the answer to each of ``asks`` by its name: these are levels for :class:`Hierarchy`, and what ``where``
    selects by.

    Args:
        images: Where they come from.
        asks: What is asked about each. The answer to the first is the entity of a row.
        **kwargs: As in :class:`Records`: ``entity``, ``where``, ``rows``.

    Raises:
        ValueError: If nothing is asked, two have one name, or there is not an answer for each class.

    Example:
        >>> import torch
        >>> from lightning_unlearn.data.vision import LabelledImages
        >>> class Grey(Images):
        ...     def load(self):
        ...         return LabelledImages(torch.zeros(2, 1, 8, 8), torch.tensor([0, 1]), ["cat", "car"])
        >>> asks = [Ask("what", "What is it?", ["a cat", "a car"]), Ask("kind", "Is it alive?", ["yes", "no"])]
        >>> [(row.question, row.answer, row.entity) for row in ImageQuestions(Grey(), asks).questions()][1:3]
        [('Is it alive?', 'yes', 'a cat'), ('What is it?', 'a car', 'a car')]
    """

    def __init__(self, images: Images, asks: Sequence[Ask], **kwargs: Any) -> None:
        check_kind("images", images, Images, example='IDXImages("images.gz", "labels.gz")')
        for ask in asks:
            check_kind("asks", ask, Ask, example='Ask("what", "What is it?", ["a cat", "a car"])')
        if not asks or len({ask.name for ask in asks}) < len(asks):
            raise ValueError(f"`asks` should be questions of different names. Found {[ask.name for ask in asks]}.")
        super().__init__(image="image", **{"entity": asks[0].name, **kwargs})
        self.images, self.asks = images, tuple(asks)

    @override
    def read(self) -> Iterable[Any]:
        found = self.images.load()
        for ask in self.asks:
            if len(ask.answers) != len(found.classes):
                raise ValueError(
                    f"`answers` of {ask.name!r} should be one for each class, {found.classes}. Found {list(ask.answers)}."
                )
        for pixels, label in zip(found.images, found.labels.tolist(), strict=True):
            picture = Picture(pixels)
            levels = {ask.name: ask.answers[label] for ask in self.asks}
            for ask in self.asks:
                yield {
                    "image": picture,
                    "question": ask.question,
                    "answer": levels[ask.name],
                    "asks": ask.name,
                    **levels,
                }
