"""What the package offers: rooms, the names of each, and where a name that several rooms offer is at home."""

from __future__ import annotations

import ast
import inspect
import pkgutil
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGE = "lightning_unlearn"
LEFT_OUT = (f"{PACKAGE}.__main__",)


@dataclass(frozen=True)
class Room:
    """A package with what it offers, or a module of pure functions, which offers what it defines."""

    name: str
    module: ModuleType
    offered: tuple[str, ...]

    def value(self, name: str) -> Any:
        """What stands behind a name."""
        return getattr(self.module, name)

    @property
    def summary(self) -> str:
        """The first paragraph of the room's docstring."""
        return first_paragraph(self.module)


@cache
def rooms() -> dict[str, Room]:
    """By full name, the package itself first."""
    found = [PACKAGE, *(m.name for m in pkgutil.walk_packages(import_module(PACKAGE).__path__, f"{PACKAGE}."))]
    public = [name for name in found if not any(part.startswith("_") for part in name.split("."))]
    return {name: room for name in public if (room := _room(name)).offered or hasattr(room.module, "__path__")}


def _room(name: str) -> Room:
    module = import_module(name)
    listed = getattr(module, "__all__", None)
    return Room(name, module, tuple(sorted(listed, key=str.lower)) if listed is not None else _defined_in(module))


def _defined_in(module: ModuleType) -> tuple[str, ...]:
    here = [n for n, v in vars(module).items() if getattr(v, "__module__", None) == module.__name__]
    return tuple(sorted(name for name in here if not name.startswith("_")))


@cache
def homes() -> dict[tuple[str, str], str]:
    """For each room and name, the room whose page describes it: the nearest to the file where it is written."""
    offering: dict[tuple[int, str], list[tuple[str, str]]] = {}
    for room in rooms().values():
        for name in room.offered:
            offering.setdefault((id(room.value(name)), name), []).append((room.name, name))
    return {pair: _nearest(pairs) for pairs in offering.values() for pair in pairs}


def _nearest(pairs: list[tuple[str, str]]) -> str:
    room, name = pairs[0]
    written = getattr(rooms()[room].value(name), "__module__", None) or ""
    around = [r for r, _ in pairs if f"{written}.".startswith(f"{r}.")]
    return max(around or [r for r, _ in pairs], key=lambda r: (len(r), r))


def at_home(room: Room) -> list[str]:
    """The names that this room's page describes; the others stand elsewhere."""
    return [name for name in room.offered if homes()[room.name, name] == room.name]


def first_paragraph(value: Any) -> str:
    """The first paragraph of a docstring, on one line; empty if there is none of its own."""
    return " ".join((inspect.getdoc(value) or "").partition("\n\n")[0].split())


def kinds_of(base: type) -> list[tuple[str, type]]:
    """Full names at home, and classes, of all that can be made of a kind."""
    found = {
        f"{room.name}.{name}": room.value(name)
        for room in rooms().values()
        for name in at_home(room)
        if inspect.isclass(room.value(name)) and issubclass(room.value(name), base)
    }
    return [
        (name, one) for name, one in sorted(found.items(), key=lambda x: x[1].__name__) if not inspect.isabstract(one)
    ]


def is_described_by_itself(value: Any) -> bool:
    """Whether it carries a docstring; other values have a text below the place where they are assigned."""
    return inspect.isclass(value) or inspect.isroutine(value)


@cache
def texts_below_values() -> dict[str, str]:
    """What is said below the assignment of a name, at the top of some file."""
    found = {}
    for path in Path(str(rooms()[PACKAGE].module.__file__)).parent.rglob("*.py"):
        for statement, below in pairwise(ast.parse(path.read_text()).body):
            if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                assigned = [node for node in ast.walk(statement) if isinstance(node, ast.Assign)]
                names = [target.id for node in assigned for target in node.targets if isinstance(target, ast.Name)]
                found |= dict.fromkeys(names, str(below.value.value))
    return found
