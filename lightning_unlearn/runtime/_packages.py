"""Lightning comes as two packages, with the same code and no class in common: `lightning.pytorch`, `pytorch_lightning`."""

from __future__ import annotations

import sys
from typing import Any

PACKAGES = ("lightning.pytorch", "pytorch_lightning")


def in_each_package(name: str) -> list[Any]:
    """What is called ``name`` in each of Lightning's packages that is imported; none is imported for it.

    Args:
        name: Below the package, with dots: ``LightningModule``, ``utilities.CombinedLoader``.

    Example:
        >>> import lightning.pytorch as pl
        >>> in_each_package("LightningModule")[0] is pl.LightningModule
        True
    """
    inner, _, last = name.rpartition(".")
    modules = [sys.modules.get(f"{package}.{inner}".rstrip(".")) for package in PACKAGES]
    return [getattr(module, last) for module in modules if hasattr(module, last)]


def lightning_class(instance: Any, name: str) -> type | None:
    """Lightning's class ``name`` that ``instance`` is of, from the package that its class follows first, or ``None``.

    Example:
        >>> import lightning.pytorch as pl
        >>> lightning_class(pl.LightningDataModule(), "LightningDataModule") is pl.LightningDataModule
        True
        >>> lightning_class(pl.LightningDataModule(), "LightningModule") is None
        True
    """
    of_packages = in_each_package(name)
    # `__class__` and not `type`: Lightning gives a module a weak proxy of its trainer.
    return next((cls for cls in instance.__class__.__mro__ if cls in of_packages), None)
