from __future__ import annotations

import warnings
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from safetensors.torch import load_model, save_model
from torch import nn

from lightning_unlearn.runtime import written_whole


@dataclass(frozen=True)
class KeptWeights:
    """Weights that were made in an earlier run, in a file that is named for what made them and for its own content.

    A file that was cut off, damaged or put there by somebody else does not have the content that its name says. It is named
    in a warning, and never used.

    Args:
        folder: Where the file is.
        made_by: A name, with a hash of everything that decides the weights.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     kept = KeptWeights(Path(folder), "taught-1")
        ...     kept.find() is None, kept.save(nn.Linear(2, 1)) == kept.find()
        (True, True)
    """

    folder: Path
    made_by: str

    def find(self) -> Path | None:
        """The file, if there is one and it is whole."""
        for path in sorted(self.folder.glob(f"{self.made_by}-*.safetensors")):
            try:
                found = "other content than its name says" if _content(path) != path.stem.rpartition("-")[2] else None
            except OSError as error:
                found = str(error)
            if found is None:
                return path
            warnings.warn(
                f"`{path}` should hold weights that `FinetuneFirst` made. Found {found}: they are made anew. Remove it, if "
                "this warning comes again.",
                stacklevel=2,
            )
        return None

    def load_(self, network: nn.Module, path: Path) -> None:
        """Give ``network`` the weights in ``path``, in place."""
        load_model(network, path)

    def save(self, network: nn.Module) -> Path | None:
        """Write the file, readable by its owner alone; ``None``, with a warning, if that is not possible."""
        named: list[Path] = []

        def name(new: Path) -> Path:
            named.append(self.folder / f"{self.made_by}-{_content(new)}.safetensors")
            return named[0]

        try:
            with written_whole(self.folder / self.made_by, named=name) as new:
                save_model(network, str(new))
        except Exception as error:  # safetensors has errors of its own for a full disk
            warnings.warn(
                f"What `FinetuneFirst` made should be kept in `{self.folder}`. Found {error} This run goes on with what is "
                "in memory; another one makes it anew.",
                stacklevel=2,
            )
            return None
        return named[0]


def _content(path: Path) -> str:
    digest = blake2b(digest_size=8)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
