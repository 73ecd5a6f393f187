from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from lightning_unlearn.data._forget_retain_data import ForgetRetainData
from lightning_unlearn.data.sets._published_files import PublishedFiles


class PublishedData(ForgetRetainData):
    """A benchmark set that somebody has published. It says under which licence, once per fit.

    Attributes:
        called: Its name.
        address: Where it is published.
        licence: As stated there.
    """

    called: ClassVar[str]
    address: ClassVar[str]
    licence: ClassVar[str]

    @classmethod
    def files(cls, folder: str | Path) -> PublishedFiles:
        """Its files in a folder, or on the hub."""
        return PublishedFiles(folder, cls.called, cls.address)

    @override
    def prepare_data(self) -> None:
        rank_zero_info(f"{self.called} ({self.address}): {self.licence}")
        super().prepare_data()
