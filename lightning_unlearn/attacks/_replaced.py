from __future__ import annotations

import inspect
from typing import Any, TypeVar

from lightning_unlearn.attacks._base import Attack

_A = TypeVar("_A", bound=Attack)


def settings_of(attack: Attack) -> dict[str, Any]:
    """The arguments that an attack was made with, of its class and of those it inherits from.

    Example:
        >>> from lightning_unlearn import Noise
        >>> settings_of(Noise(0.5))
        {'sigma': 0.5, 'seed': 0}
    """
    makers = [vars(kind)["__init__"] for kind in type(attack).__mro__ if "__init__" in vars(kind)]
    names = dict.fromkeys(name for maker in makers for name in inspect.signature(maker).parameters)
    return {name: vars(attack)[name] for name in names if name in vars(attack)}


def replaced(attack: _A, **settings: Any) -> _A:
    """Another attack of the same class, with some settings changed.

    Raises:
        ValueError: If it has no such setting.

    Example:
        >>> from lightning_unlearn import Relearn
        >>> replaced(Relearn(steps=5), lr=0.1).steps
        5
    """
    own = settings_of(attack)
    if unknown := sorted(settings.keys() - own.keys()):
        raise ValueError(
            f"`{type(attack).__name__}` should have the settings that are changed. Found `{unknown[0]}`, which is none of "
            f"`{'`, `'.join(own)}`."
        )
    made = type(attack)(**{**own, **settings})
    made.of_grid = attack.of_grid
    return made
