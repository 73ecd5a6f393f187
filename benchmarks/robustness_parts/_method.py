from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

ROOMS = (
    "data",
    "attacks",
    "edits",
    "transforms",
    "guards",
    "callbacks",
    "projectors",
    "objectives",
    "readouts",
    "selectors",
)
FILE = Path(__file__).parent / "methods.yaml"


class Missing(Exception):  # a reason, not a fault
    """A part that this version of the package does not have."""


@dataclass(frozen=True)
class Method:
    """A way to forget, as `methods.yaml` describes it.

    Args:
        name: In tables.
        described: ``unlearn`` (arguments of ``Unlearn``; ``null`` for a callback that forgets by itself), ``module``
            (arguments of ``UnlearningModule``), ``callbacks``, ``rate`` (factor on the setting's learning rates),
            ``passes`` (forward and backward, in a step, for the estimate of time; 2, if not given), ``budget`` (that of
            the setting, if not given), and ``models`` (which settings it is for, if not all).
    """

    name: str
    described: Mapping[str, Any]

    def unlearn(self, names: Mapping[str, Any]) -> dict[str, Any] | None:
        """Arguments of ``Unlearn``, made anew: parts have state."""
        found: dict[str, Any] | None = made(self.described.get("unlearn", {}), names)
        return found

    def module(self, names: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of ``UnlearningModule``."""
        found: dict[str, Any] = made(self.described.get("module", {}), names)
        return found

    def callbacks(self, names: Mapping[str, Any]) -> list[Any]:
        """The callbacks beside ``Unlearn``."""
        found: list[Any] = made(self.described.get("callbacks", []), names)
        return found

    def missing(self, names: Mapping[str, Any]) -> str | None:
        """Why it cannot be run in this version, if so."""
        try:
            self.unlearn(names), self.module(names), self.callbacks(names)
        except (Missing, ImportError, TypeError, ValueError) as error:
            return f"{type(error).__name__}: {error}"
        return None


def passes(described: Mapping[str, Any]) -> float | None:
    """Forward and backward passes of a step, in the mean over what is drawn, by what the method is; references not counted.

    ``None`` for two parts that are put together: which they are, their descriptions do not say.
    """
    if "best_two" in described:
        return None
    if any("BilevelUnlearn" in one for one in described.get("callbacks", [])):
        return 14.0  # thirteen more than the fit's own, by its defaults
    unlearn = described.get("unlearn", {})
    if unlearn is None:
        return 1.0
    paired = "PairedReadout" in (unlearn.get("readout") or {})
    attacks = [next(iter(attack.items())) for attack in unlearn.get("under", {}).values()]
    at_each = 2 if unlearn.get("under_retain") else 1
    attacked = sum(_inner(*attack) + at_each for attack in attacks)
    return 2 + paired + attacked / unlearn.get("under_every", 1)


def _inner(attack: str, arguments: Mapping[str, Any]) -> float:
    if attack == "Relearn":
        return (arguments["steps"] + 1) / 2  # one to all of them
    return {"Sharpen": 1.0, "LatentPerturbation": 16.0, "TokenwisePerturbation": 16.0}.get(attack, 0.0)


@cache
def methods(file: Path = FILE) -> dict[str, Method]:
    """All methods of a file, by name."""
    return {name: Method(name, described or {}) for name, described in yaml.safe_load(file.read_text()).items()}


def made(value: Any, names: Mapping[str, Any]) -> Any:
    """Build what a description says: ``{NPO: {beta: 0.1}}`` is ``NPO(beta=0.1)``, ``$middle`` the setting's middle layer."""
    if isinstance(value, str) and value.startswith("$"):
        return names[value.removeprefix("$")]
    if isinstance(value, list):
        return [made(item, names) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1 and (name := next(iter(value)))[:1].isupper():
        return _class(name)(**made(value[name] or {}, names))
    return {key: made(item, names) for key, item in value.items()}


def _class(name: str) -> Any:
    rooms = ["lightning_unlearn", *(f"lightning_unlearn.{room}" for room in ROOMS), "lightning.pytorch.callbacks"]
    rooms += ["torchjd.aggregation"] if find_spec("torchjd") else []
    for room in rooms:
        found = getattr(importlib.import_module(room), name, None)
        if found is not None:
            return found
    raise Missing(f"`{name}` is not in this version of the package")
