from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from lightning_unlearn import LoaderSettings
from lightning_unlearn.data import AllBut, ImageData, Images, OfClasses, Pick, RandomPart

KINDS = ("class", "subclass", "sample")


@dataclass(frozen=True, eq=False)  # told apart by what they are, since mappings have no hash
class Setting:
    """A network, its images, and how long it unlearns.

    Args:
        name: Of the setting, and of its results.
        network: From the number of classes and a seed to the network before it is taught.
        train: Images to teach and to forget.
        test: Images that nothing is taught.
        groups: Classes that are one, where a sub-class is forgotten.
        gone: The class to forget, by world.
        share: How many images to forget, where they are drawn at random.
        head: Name of the last layer.
        wide: Names of the layers that adapters are put on; none if there are no linear layers.
        teach: Arguments of ``FinetuneFirst``.
        batch: Forget and retain images a step.
        steps: Of forgetting.
        rates: Learning rates that are tried for each method that has no others.
        seconds: Of one step of training on a core, for the estimate.
        size: How many images are taught, for the estimate.
    """

    name: str
    network: Callable[[int, int], nn.Module]
    train: Images
    test: Images
    groups: list[list[int]]
    gone: Mapping[str, int]
    share: float
    head: str
    wide: tuple[str, ...]
    teach: Mapping[str, Any]
    batch: tuple[int, int]
    steps: int
    rates: tuple[float, ...]
    seconds: float
    size: int = 3000

    def numbers(self) -> dict[str, Any]:
        """Everything that decides a result, but for the seeds and the method."""
        fields = ("name", "groups", "gone", "share", "head", "wide", "teach", "batch", "steps", "rates")
        return {**{name: getattr(self, name) for name in fields}, "train": vars(self.train), "test": vars(self.test)}

    def classes(self, kind: str) -> int:
        """How many the network tells apart."""
        return len(self.groups) if kind == "subclass" else sum(map(len, self.groups))

    def start(self, kind: str, seed: int) -> nn.Module:
        """The network before it is taught."""
        return self.network(self.classes(kind), seed)


@dataclass(frozen=True)
class World:
    """What is taught, and what must go, for one kind of request.

    Args:
        setting: Network and images.
        kind: A class, a sub-class of what the network tells apart, or a random sample.
        name: ``"test"``, or ``"tune"`` with another class, or another draw.
        seed: Of the draw.
    """

    setting: Setting
    kind: str
    name: str
    seed: int

    def part(self, which: str, size: int | None = None, seed: int = 0) -> ImageData:
        """Images by what they are for, as batches.

        - ``forget`` and ``retain``: of what was taught.
        - ``unseen``: what was never taught, and is like what must go: the members' counterpart.
        - ``test``: what was never taught, and is like what must stay.
        """
        setting, pick = self.setting, self._pick()
        images = setting.train if which in ("forget", "retain") else setting.test
        chosen: Pick | None = {"forget": pick, "retain": AllBut(pick), "unseen": pick, "test": AllBut(pick)}[which]
        if which in ("unseen", "test") and self.kind == "sample":
            chosen = None  # any unseen image is like a random sample
        groups = setting.groups if self.kind == "subclass" else None
        loader = LoaderSettings(batch_size=size or 256, seed=seed)
        return ImageData(images, chosen, groups, loader)

    def batches(self, which: str, size: int | None = None) -> list[Any]:
        """The same, in order."""
        return list(self.part(which, size).val_dataloader())

    def _pick(self) -> Pick:
        if self.kind == "sample":
            return RandomPart(self.setting.share, self.seed)
        return OfClasses([self.setting.gone[self.name]])
