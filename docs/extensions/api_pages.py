"""A page for each room, from its docstrings; and the build fails on a public name that none of them describes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rooms import (
    PACKAGE,
    Room,
    at_home,
    first_paragraph,
    homes,
    is_described_by_itself,
    rooms,
    texts_below_values,
)
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

logger = logging.getLogger(__name__)


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this."""
    app.connect("builder-inited", _write)
    app.connect("autodoc-process-signature", _without_arguments)
    app.connect("env-check-consistency", _miss_nothing)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def write(path: Path, text: str) -> None:
    """Write what has changed alone, so that Sphinx reads no page twice."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def _write(app: Sphinx) -> None:
    folder = Path(app.srcdir) / "api"
    pages = {f"{_file(name)}.rst": "\n".join(_page(room)) for name, room in rooms().items()}
    for stale in {path.name for path in folder.glob("*.rst")} - pages.keys():
        (folder / stale).unlink()
    for name, text in pages.items():
        write(folder / name, text)


def _file(room: str) -> str:
    return "index" if room == PACKAGE else room.removeprefix(f"{PACKAGE}.")


def _children(room: Room) -> list[str]:
    """Rooms whose nearest room above is this one."""
    above = {
        name: max((r for r in rooms() if name.startswith(f"{r}.")), key=len) for name in rooms() if name != PACKAGE
    }
    return sorted(name for name, parent in above.items() if parent == room.name)


def _page(room: Room) -> Iterator[str]:
    title = "API" if room.name == PACKAGE else room.name.removeprefix(f"{PACKAGE}.")
    yield from (title, "=" * len(title), "", inspect.getdoc(room.module) or "", "")
    if room.name == PACKAGE:
        yield from (
            f"Everything below can be imported from the room that its page is named for; these also from ``{PACKAGE}``.",
            "",
        )
    yield from (f".. py:currentmodule:: {room.name}", "", *_toctree(_children(room)), *_overview(room))
    for name in at_home(room):
        yield from _described(room, name)


def _toctree(children: list[str]) -> Iterator[str]:
    if children:
        yield from ("Rooms", "-----", "", ".. list-table::", "   :widths: auto", "")
        for name in children:
            yield f"   * - :doc:`{name.removeprefix(f'{PACKAGE}.')} <{_file(name)}>`"
            yield f"     - {rooms()[name].summary}"
        yield from ("", ".. toctree::", "   :hidden:", "", *(f"   {_file(name)}" for name in children), "")


def _overview(room: Room) -> Iterator[str]:
    """A table of all that can be imported here, with links to where it is described."""
    if not room.offered:
        return
    yield from ("Names", "-----", "", ".. list-table::", "   :widths: auto", "")
    for name in room.offered:
        home = homes()[room.name, name]
        yield f"   * - :py:obj:`~{home}.{name}`"
        yield f"     - {_in_short(room, name)}"
    yield ""


def _in_short(room: Room, name: str) -> str:
    if is_described_by_itself(room.value(name)):
        return first_paragraph(room.value(name))
    return " ".join(texts_below_values().get(name, "").partition("\n\n")[0].split())


def _described(room: Room, name: str) -> Iterator[str]:
    value = room.value(name)
    title = re.sub(r"_$", r"\\_", name)  # else it would be a reference
    yield from (title, "-" * len(title), "")
    if not is_described_by_itself(value):
        yield from (f".. py:data:: {name}", "", f"   {_in_short(room, name)}", "")
    elif inspect.isclass(value):
        yield from (f".. autoclass:: {room.name}.{name}", "   :members:", "   :show-inheritance:", "")
    else:
        yield from (f".. autofunction:: {room.name}.{name}", "")


def _without_arguments(
    app: Sphinx, what: str, name: str, value: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """A class whose constructor is that of `torch.nn.Module` or `torchmetrics.Metric` has no settings of its own."""
    theirs = what == "class" and not getattr(value.__init__, "__module__", "").startswith(PACKAGE)
    return ("()" if theirs and "**kwargs" in (signature or "") else signature), returns


def _miss_nothing(app: Sphinx, env: BuildEnvironment) -> None:
    described = set(env.get_domain("py").objects)  # type: ignore[attr-defined]
    for (room, name), home in homes().items():
        if f"{home}.{name}" not in described:
            logger.warning("`%s.%s` is public, and no page describes it.", room, name)
        elif not _text_of(rooms()[home].value(name), name):
            logger.warning("`%s.%s` is public, and nothing is said of it.", room, name)


def _text_of(value: Any, name: str) -> str:
    """Of its own: a class inherits no docstring here, and an alias such as `dict[str, Any]` not that of `dict`."""
    if not is_described_by_itself(value):
        return texts_below_values().get(name, "")
    return ((vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__) or "").strip()
