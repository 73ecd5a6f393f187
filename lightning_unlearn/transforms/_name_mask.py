from __future__ import annotations

import lightning.pytorch as pl
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.models.layers import name_fits, plain_name
from lightning_unlearn.transforms._mask import Mask


class NameMask(Mask):
    """Parameters of some names are trained.

    Args:
        patterns: ``fnmatch`` patterns of a full name, or of any part of it between dots.
    """

    def __init__(self, patterns: list[str]) -> None:
        if not patterns:
            raise ValueError("`pattern` should say what is to be trained. Found no pattern. Use `'*'` for everything.")
        self.patterns = patterns
        self._known: set[int] = set()
        self._stay: set[int] = set()

    @override
    def start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._module = module
        self._choose()

    @override
    def stays(self, param: Tensor) -> bool:
        if id(param) not in self._known:  # the module has got new parameters since
            self._choose()
        return id(param) in self._stay

    @override
    def __repr__(self) -> str:
        return ", ".join(self.patterns)

    def _choose(self) -> None:
        names = [(plain_name(name), p) for name, p in self._module.named_parameters(remove_duplicate=False)]
        for pattern in self.patterns:
            if not any(name_fits(name, [pattern]) for name, _ in names):
                there = ", ".join(f"`{name}`" for name, _ in names[:20])
                more = f" and {len(names) - 20} more" if len(names) > 20 else ""
                raise ValueError(
                    "Each `pattern` should fit the name of a parameter, or a part of it between dots. Found none for "
                    f"{pattern!r}. There are {there}{more}."
                )
        self._known = {id(p) for _, p in names}
        self._stay = self._known - {id(p) for name, p in names if name_fits(name, self.patterns)}
