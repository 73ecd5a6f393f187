"""References as docstrings write them, ``:class:`NPO```: by the short name, whichever room describes it."""

from __future__ import annotations

import builtins
import sys

from docutils import nodes
from rooms import PACKAGE, homes, rooms
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

ROOMS = {part for name in rooms() for part in name.split(".")}


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this."""
    app.connect("missing-reference", _resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _resolve(app: Sphinx, env: BuildEnvironment, node: pending_xref, text: nodes.TextElement) -> nodes.Node | None:
    if node["refdomain"] != "py":
        return None
    target = node["reftarget"].strip().lstrip("~.")
    domain = env.get_domain("py")
    known = domain.objects  # type: ignore[attr-defined]
    for full in _candidates(target):
        if full in known:
            found = node.copy()
            found["reftarget"] = full
            return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", full, found, text)
    return None if _is_ours(node, target) else text


def _candidates(target: str) -> list[str]:
    """Where it may be described, the most exact first: `NPO`, `NPO.forward`, `lightning_unlearn.objectives._npo.NPO`."""
    within = target.removeprefix(f"{PACKAGE}.").split(".")
    parts = [part for part in within[:-1] if not part.startswith("_") and part not in ROOMS] + within[-1:]
    whole = [f"{home}.{'.'.join(parts)}" for home in _homes_of(parts[:1])]
    return [*whole, *(f"{home}.{parts[0]}" for home in _homes_of(parts[:1]))]  # a field is told of where its class is


def _homes_of(names: list[str]) -> list[str]:
    return sorted({home for (_, offered), home in homes().items() if offered in names}, key=len)


def _is_ours(node: pending_xref, target: str) -> bool:
    """Whether it should have been found: what a docstring refers to, unless that is another package's."""
    if "refwarn" not in node or "._" in target or (node["reftype"] in ("attr", "meth") and "." not in target):
        return False  # types in signatures and bases may be private; so may what a class says of its own members
    return not hasattr(builtins, target) and target.partition(".")[0] not in sys.modules.keys() - {PACKAGE}
