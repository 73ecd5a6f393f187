from __future__ import annotations

from typing_extensions import override

from lightning_unlearn.data.vision._images import Images, LabelledImages
from lightning_unlearn.data.vision._picks import Pick
from lightning_unlearn.functional.settings import check_kind


class Picked(Images):
    """Those of other images that are picked, as a source of their own.

    Args:
        images: All of them.
        pick: Which are meant.
    """

    def __init__(self, images: Images, pick: Pick) -> None:
        check_kind("images", images, Images, example='ImageArchive("cifar10.zip")')
        check_kind("pick", pick, Pick, example='OfClasses(["cat"])')
        self.images, self.pick = images, pick

    @override
    def load(self) -> LabelledImages:
        found = self.images.load()
        return found.where(self.pick.mask(found))
