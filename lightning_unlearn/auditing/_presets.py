"""Which attacks and audits are made, for people who have no wishes of their own."""

from __future__ import annotations

from typing import Literal

from lightning_unlearn.attacks import Attack, AttackGrid, Prune, Quantize, Relearn
from lightning_unlearn.audits import Audit, Measure, Specificity

Preset = Literal["quick", "standard", "thorough"]
"""How much is tried: for minutes, for an hour, or for as long as it takes."""


def preset_attacks(preset: Preset) -> dict[str, Attack | AttackGrid]:
    """The attacks of a preset, by name.

    Example:
        >>> list(preset_attacks("quick"))
        ['int4', 'relearn']
    """
    quick: dict[str, Attack | AttackGrid] = {
        "int4": Quantize(bits=4, group_size=32),
        "relearn": Relearn(steps=20, lr=1e-3),
    }
    if preset == "quick":
        return quick
    return {**quick, "pruned": Prune()}


def preset_audits(preset: Preset) -> list[Audit]:
    """The audits of a preset."""
    return [Measure(), Specificity()]
