from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_unlearn.data._loader_settings import LoaderSettings
from lightning_unlearn.data._paired_data import PairedData
from lightning_unlearn.data._question_answer_data import QuestionAnswerData
from lightning_unlearn.data.companions import SameImage
from lightning_unlearn.data.encodings import ImageEncoding
from lightning_unlearn.data.orders import Order
from lightning_unlearn.data.sets._class_data import check_draw
from lightning_unlearn.data.sets._joined_records import JoinedRecords
from lightning_unlearn.data.sets._mnist_data import MNISTData, mnist_images
from lightning_unlearn.data.sets._published_data import PublishedData
from lightning_unlearn.data.vision import Ask, ImageQuestions, Images, OfClasses, Picked
from lightning_unlearn.functional.settings import check_between

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NAMED = Ask("digit", "Which digit?", NAMES)
"""The fact: which digit it is."""
PARITY = Ask("parity", "Odd or even?", ["even", "odd"] * 5)
"""The level above: which kind of digit."""


class MNISTCaptionsData(PublishedData):
    """Handwritten digits with two questions each, of which the names of some digits must go.

    "Which digit?" is the fact, "Odd or even?" the level above it in a hierarchy, and a harmless question about
    the same image. What must go are the names of some digits. What must stay are both answers about all other digits, and
    the level of those whose name must go: only the way from the image to its name is cut.

    Each row that must go has the level of its image as a companion (:class:`SameImage`), for :class:`PromptDecouple` with
    :class:`PairedReadout`; other readouts do not see it. Each name is an entity, and so is each kind, where it is asked of
    digits whose names must go. Probes, of images that nobody was trained on: ``forget_test`` (names that must go), ``level``
    (odd or even, of the same images), ``siblings`` (names of other digits of the same kind), and ``retain_test`` (all that
    must stay about other digits).

    Args:
        folder: As in :class:`MNISTData`.
        encoding: How rows become tokens and pixels.
        forget: The digits that must go, by their names: ``["three"]``.
        per_class: At most so many images of each digit, to train on and to test on.
        class_seed: Which ones.
        held_out: As in :class:`MNISTData`.
        loader: How they are cut into batches.
        order: As in :class:`ForgetRetainData`, and so is ``seed``.
        seed: Of the order.

    Raises:
        FileNotFoundError: If there are no such files.
        ValueError: If there is no such digit, or none is left of its kind.

    Example:
        >>> data = MNISTCaptionsData("mnist", ImageEncoding("stories260k", template="plain"))  # doctest: +SKIP

    References:
        The images are LeCun et al.'s, *Gradient-Based Learning Applied to Document Recognition*, 1998. The levels follow
        Wu et al., `MedForget <https://arxiv.org/abs/2512.09867>`_, 2025.
    """

    called, address, licence = MNISTData.called, MNISTData.address, MNISTData.licence

    def __init__(
        self,
        folder: str,
        encoding: ImageEncoding,
        forget: Sequence[str] = ("three",),
        per_class: int | None = 100,
        class_seed: int = 0,
        held_out: float = 0.2,
        loader: LoaderSettings = LoaderSettings(batch_size=32),  # noqa: B008  # frozen
        order: Order | None = None,
        seed: int = 0,
    ) -> None:
        check_between("held_out", held_out, 0, 1)
        check_draw(per_class, class_seed)
        gone = _numbers(forget)
        siblings = [n for n in range(10) if n not in gone and n % 2 in {g % 2 for g in gone}]
        others = [n for n in range(10) if n not in gone]
        if not siblings:
            raise ValueError(f"`forget` should leave a digit of the same kind. Found none beside {list(forget)}.")
        train, test = mnist_images(Path(folder), held_out)

        def asked(images: Images, digits: Sequence[int], *asks: Ask) -> ImageQuestions:
            some = Picked(images, OfClasses(list(digits), per_class, class_seed))
            where = {"asks": [ask.name for ask in asks]}
            return ImageQuestions(some, [NAMED, PARITY], where=where, entity=asks[0].name)

        def batches(*records: ImageQuestions) -> QuestionAnswerData:
            return QuestionAnswerData(JoinedRecords(records), encoding, loader)

        probes: dict[str, Any] = {
            "forget_test": batches(asked(test, gone, NAMED)),
            "level": batches(asked(test, gone, PARITY)),
            "siblings": batches(asked(test, siblings, NAMED)),
            "retain_test": batches(asked(test, others, NAMED, PARITY)),
        }
        level = asked(train, gone, PARITY)
        forgotten = PairedData(asked(train, gone, NAMED), SameImage(level), encoding, loader)
        retained = batches(asked(train, others, NAMED, PARITY), level)
        super().__init__(retained, forgotten, order=order, seed=seed, probes=probes)


def _numbers(names: Sequence[str]) -> list[int]:
    if isinstance(names, str) or not names or not set(names) < set(NAMES):
        raise ValueError(f"`forget` should be a list of some of {', '.join(NAMES)}. Found `forget = {names!r}`.")
    return [NAMES.index(name) for name in names]
