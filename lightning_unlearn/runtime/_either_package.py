"""Our callbacks, modules and datamodules are those of both of Lightning's packages."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from typing_extensions import override

from lightning_unlearn.runtime._packages import PACKAGES, in_each_package, lightning_class

_OTHER = PACKAGES[1]
_BASES = ("Callback", "LightningDataModule", "LightningModule")


def inherit_from_both_packages() -> None:
    """Give our classes the base classes of ``pytorch_lightning`` too: now, or when somebody imports it.

    Its trainers and command lines test with ``isinstance`` and ``issubclass``, and would refuse classes that only inherit
    from ``lightning.pytorch``. We never import it ourselves, and either may be imported first.
    """
    if hasattr(sys.modules.get(_OTHER), _BASES[-1]):
        put_first(PACKAGES[0])
    elif not any(isinstance(finder, _WhenImported) for finder in sys.meta_path):
        sys.meta_path.insert(0, _WhenImported())


def put_first(package: str) -> None:
    """Let our classes inherit from the base classes of ``package`` first, and then from those of the other.

    Lightning takes a hook for overridden unless it is the one of its own base class, so this one has to come first.
    """
    for name in _BASES:
        bases = sorted(in_each_package(name), key=lambda base: not base.__module__.startswith(package))
        classes = list(_ours(bases))
        if all(cls.__bases__[-len(bases) :] == tuple(bases) for cls in classes):
            continue
        # First one of them alone: a class that inherits by two ways would have them in both orders for a while.
        for some in (bases[-1:], bases):
            for cls in classes:
                others = [base for base in cls.__bases__ if base not in bases]
                cls.__bases__ = (*others, *some)


class EitherPackage:
    """Mixin of our modules and datamodules: under a trainer they are of its package first."""

    @override
    def __setattr__(self, name: str, value: Any) -> None:
        # A trainer attaches itself, by this attribute, before it asks which hooks are overridden.
        trainer = None if name != "trainer" or value is None else lightning_class(value, "Trainer")
        if trainer is not None:
            put_first(next(package for package in PACKAGES if trainer.__module__.startswith(package)))
        super().__setattr__(name, value)


class _WhenImported(MetaPathFinder):
    """Finds nothing of its own. Makes the import of ``pytorch_lightning`` end with :func:`put_first`."""

    @override
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _OTHER:
            return None
        finders = [finder for finder in sys.meta_path if finder is not self]
        specs = (finder.find_spec(fullname, path, target) for finder in finders)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and spec.loader is not None:
            self._extend(spec.loader)
        return spec

    def _extend(self, loader: Any) -> None:
        run = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            put_first(PACKAGES[0])

        loader.exec_module = exec_module


def _ours(bases: Sequence[type]) -> Iterator[type]:
    """Our classes that inherit directly from one of ``bases``; those below them follow."""
    found: list[type] = []
    for base in bases:
        found += base.__subclasses__()
    yield from (cls for cls in dict.fromkeys(found) if cls.__module__.startswith("lightning_unlearn."))
