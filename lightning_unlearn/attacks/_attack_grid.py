from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

from lightning_unlearn.attacks._base import Attack
from lightning_unlearn.attacks._replaced import replaced
from lightning_unlearn.functional.settings import check_kind


class AttackGrid:
    """One attack in many settings: each has a name, a curve and a row of its own in the report.

    An attacker may try several rates and starts, and keep what works best. In ``RecoveryCheck(attacks={"relearn": grid})``
    it stands for its cells, ``relearn_lr0.001_seed1`` and so on. Their ``attack_config`` names the grid, as ``of_grid``, so
    that the worst cell can be chosen on some facts, and reported on others.

    Args:
        attack: With the settings that all cells share.
        over: Values by the name of a setting; every combination is a cell.

    Raises:
        ValueError: If the attack has no such setting, a setting has no value or the same twice, or a value is refused.

    Example:
        >>> from lightning_unlearn import Relearn
        >>> cells = AttackGrid(Relearn(steps=100), over={"lr": [1e-4, 1e-3], "seed": [0, 1]}).named("relearn")
        >>> list(cells)
        ['relearn_lr0.0001_seed0', 'relearn_lr0.0001_seed1', 'relearn_lr0.001_seed0', 'relearn_lr0.001_seed1']
        >>> cells["relearn_lr0.001_seed0"].lr
        0.001
    """

    def __init__(self, attack: Attack, over: dict[str, list[Any]]) -> None:
        check_kind("attack", attack, Attack, example="Relearn(steps=100)")
        if not isinstance(over, Mapping) or not over:
            raise ValueError(
                f"`over` should be lists of values by setting, such as `{{'lr': [1e-4, 1e-3]}}`. Found `{over!r}`."
            )
        for name, values in over.items():
            given: object = values
            if not isinstance(given, list | tuple) or not given:
                raise ValueError(f"`over[{name!r}]` should be a list of values. Found `{values!r}`.")
        self.attack, self.over = attack, over
        self.named("")  # refuses what an attack refuses, here and not in a fit

    def named(self, name: str) -> dict[str, Attack]:
        """The cells, by the name of the grid and their settings."""
        cells = [dict(zip(self.over, values, strict=True)) for values in product(*self.over.values())]
        made = {"_".join([name, *(f"{key}{_short(value)}" for key, value in cell.items())]): cell for cell in cells}
        if len(made) < len(cells):
            raise ValueError(f"The cells of a grid should differ. Found a value more than once in `{self.over}`.")
        attacks = {label: replaced(self.attack, **cell) for label, cell in made.items()}
        for attack in attacks.values():
            attack.of_grid = name
        return attacks


def expanded(attacks: Mapping[str, Attack | AttackGrid]) -> dict[str, Attack]:
    """Each attack by its name, and each grid's cells by theirs.

    Raises:
        ValueError: If a cell has the name of another attack.
    """
    found: dict[str, Attack] = {}
    for name, attack in attacks.items():
        cells = attack.named(name) if isinstance(attack, AttackGrid) else {name: attack}
        if twice := sorted(cells.keys() & found.keys()):
            raise ValueError(f"Each attack should have a name of its own. Found `{twice[0]}` twice. Rename one.")
        found |= cells
    return found


def _short(value: Any) -> str:
    # No `/`, which separates parts of log keys.
    return f"{value:g}" if isinstance(value, float) else str(value).replace("/", "-")
