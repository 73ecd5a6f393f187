from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from lightning_unlearn.data._loader_settings import LoaderSettings
from lightning_unlearn.data.orders import Order
from lightning_unlearn.data.sets._published_data import PublishedData
from lightning_unlearn.data.vision import ImageData, Images, OfClasses
from lightning_unlearn.functional.settings import check_whole


class ClassData(PublishedData):
    """Images of which some classes must go; a subclass says where they are.

    Each class is an entity. Probes beside forget and retain images: ``forget_test`` and ``retain_test``, images of the same
    classes that nobody was trained on. Validation and test are on those of the classes that stay.

    Args:
        train: Images to train on.
        test: Others of the same classes.
        forget: Names of the classes that must go.
        per_class: At most so many images of each class, of both kinds.
        class_seed: Which ones.
        loader: How they are cut into batches.
        order: As in :class:`ForgetRetainData`, and so is ``seed``.
        seed: Of the order.

    Attributes:
        classes: Names of all classes.

    Raises:
        ValueError: If there is no such class, or none is left.
    """

    classes: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        train: Images,
        test: Images,
        forget: Sequence[str],
        per_class: int | None,
        class_seed: int,
        loader: LoaderSettings,
        order: Order | None,
        seed: int,
    ) -> None:
        if isinstance(forget, str) or not forget or not set(forget) < set(self.classes):
            raise ValueError(
                f"`forget` should be a list of some of {', '.join(self.classes)}. Found `forget = {forget!r}`."
            )
        parts = {"forget": list(forget), "retain": [name for name in self.classes if name not in forget]}
        picks = {name: OfClasses(own, per_class, class_seed) for name, own in parts.items()}
        sides = {name: ImageData(train, pick, loader=loader, test=test) for name, pick in picks.items()}
        probes: dict[str, Any] = {f"{name}_test": ImageData(test, pick, loader=loader) for name, pick in picks.items()}
        super().__init__(sides["retain"], sides["forget"], order=order, seed=seed, probes=probes)


def check_draw(per_class: int | None, class_seed: int) -> None:
    """Refuse what is no number of images, before files are read."""
    if per_class is not None:
        check_whole("per_class", per_class, why=", or `None` for all")
    check_whole("class_seed", class_seed, least=0)
