from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from robustness_parts._judges import PANELS, Judge
from robustness_parts._method import Method, methods
from robustness_parts._setting import Setting
from robustness_parts._settings import SETTINGS
from robustness_parts._study import Study
from typing_extensions import override

SELECTORS = Path(__file__).parent / "selectors.yaml"
RATES = (1.25e-4, 5e-4, 2e-3)
"""The same for all: what moves fewer weights may need to move them further."""
STEPS = {"bundled": (128, 8), "stories260k": (60, 4)}
"""Of forgetting, and between two looks at the budget."""


def settings(name: str) -> Setting:
    """A setting of `robustness.py`, with rates wide enough for a tenth of the weights."""
    steps, every = STEPS[name]
    return replace(SETTINGS[name], rates=RATES, steps=steps, every=every)


def selectors() -> dict[str, Method]:
    """What is compared, by name."""
    return methods(SELECTORS)


def control_of(method: Method) -> str | None:
    """The name of the control beside it, if it has one."""
    against: str | None = method.described.get("against")
    return against


@dataclass(frozen=True)
class SelectorStudy(Study):
    """The study of `robustness.py`, with two judges that cost little."""

    @cached_property
    @override
    def panel(self) -> dict[str, Judge]:
        names = "relearn full 0.001 on forget", "int4, groups of 32"
        found = {**PANELS["whole"], **PANELS["cheap"]}
        return {name: found[name] for name in names}
