from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch.utils.data import DataLoader, default_collate
from typing_extensions import override

from lightning_unlearn.data._encoded_data import EncodedData
from lightning_unlearn.data._loader_settings import LoaderSettings
from lightning_unlearn.data.vision._image_dataset import ImageDataset
from lightning_unlearn.data.vision._images import Images
from lightning_unlearn.data.vision._picks import Pick
from lightning_unlearn.functional.settings import check_kind


class ImageData(EncodedData):
    """Images and their labels, as pairs ``([B, C, H, W], [B])``: all of a source, or those that are picked.

    With ``groups``, what is learnt is the group of a class, and not the class. A pick still sees the classes: so one class
    of a group can be forgotten (sub-class forgetting).

    Args:
        images: Where they come from.
        pick: Which of them; all, if ``None``.
        groups: Classes that are one, by number: ``[[0, 8], [1, 9]]``. Classes that are in no group are left out.
        loader: How they are cut into batches.
        test: Images to validate and test on, of which the same are picked. Defaults to those that are trained on.

    Raises:
        ValueError: If no image is left.

    Example:
        >>> from lightning_unlearn.data.vision import Images, LabelledImages, OfClasses
        >>> class Grey(Images):
        ...     def load(self):
        ...         return LabelledImages(torch.zeros(4, 1, 8, 8), torch.tensor([0, 1, 2, 3]), list("abcd"))
        >>> data = ImageData(Grey(), OfClasses(["c", "d"]), groups=[[0, 2], [1, 3]])
        >>> next(iter(data.val_dataloader()))[1]
        tensor([0, 1])
    """

    def __init__(
        self,
        images: Images,
        pick: Pick | None = None,
        groups: list[list[int]] | None = None,
        loader: LoaderSettings = LoaderSettings(batch_size=64),  # noqa: B008  # frozen
        test: Images | None = None,
    ) -> None:
        super().__init__(loader)
        check_kind("images", images, Images, example='ImageArchive("cifar10.zip")')
        if pick is not None:
            check_kind("pick", pick, Pick, example='OfClasses(["cat"])')
        if test is not None:
            check_kind("test", test, Images, example='ImageArchive("cifar10.zip", "test")')
        self.images, self.pick, self.groups, self.test = images, pick, groups, test

    @cached_property
    @override
    def dataset(self) -> ImageDataset:
        """The picked images. The entity of each is its class, also where a group is learnt."""
        found = self.images.load()
        labels = found.labels if self.groups is None else _grouped(found.labels, self.groups)
        mask = labels >= 0
        if self.pick is not None:
            mask &= self.pick.mask(found)
        if not mask.any():
            raise ValueError(f"`pick` should leave at least one image of {len(mask)}. Found none.")
        entities = [found.classes[number] for number in found.labels[mask].tolist()]
        return ImageDataset(found.images[mask], labels[mask], entities, found.classes)

    @cached_property
    def held_out(self) -> ImageData:
        """What is validated and tested on.

        Raises:
            ValueError: If it numbers classes in another way.
        """
        if self.test is None:
            return self
        held_out = ImageData(self.test, self.pick, self.groups, self.loader)
        for number, (own, other) in enumerate(zip(self.dataset.classes, held_out.dataset.classes, strict=False)):
            if own != other:
                raise ValueError(
                    f"`test` should number classes as `images` do. Found {other!r} and {own!r} as number {number}. Give "
                    "both the same classes."
                )
        return held_out

    @override
    def collate(self) -> Callable[[Any], Any]:
        return pair

    @override
    def val_dataloader(self) -> DataLoader[Any]:
        return self.loader.in_order(self.held_out.dataset, self.collate())

    @override
    def test_dataloader(self) -> DataLoader[Any]:
        return self.val_dataloader()


def pair(rows: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows as one batch of two tensors."""
    images, labels = default_collate(rows)
    return images, labels


def _grouped(labels: torch.Tensor, groups: list[list[int]]) -> torch.Tensor:
    number = {c: group for group, classes in enumerate(groups) for c in classes}
    return torch.tensor([number.get(c, -1) for c in labels.tolist()])
