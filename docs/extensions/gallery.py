"""A gallery of methods from the classes themselves: one line, formula, source, configuration, cost, what it withstood."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from api_pages import write
from measured import cost, withstood
from rooms import first_paragraph, homes, kinds_of
from sphinx.application import Sphinx

from lightning_unlearn import callbacks
from lightning_unlearn.attacks import Attack, PromptAttack
from lightning_unlearn.audits import Audit
from lightning_unlearn.cli import bundled_configs
from lightning_unlearn.data import Companion, Order
from lightning_unlearn.edits import Edit
from lightning_unlearn.guards import Directions, Geometry, Rule, Storage, Subspace
from lightning_unlearn.metrics import KnowledgeMetric
from lightning_unlearn.objectives import Objective
from lightning_unlearn.projectors import Projector
from lightning_unlearn.readouts import Readout
from lightning_unlearn.references import Reference
from lightning_unlearn.selectors import Choice, Selector
from lightning_unlearn.transforms import GradientTransform

KINDS: dict[str, tuple[str, tuple[type, ...]]] = {
    "objectives": ("Objectives: what forgetting or retaining minimises", (Objective,)),
    "attacks": ("Attacks: what an adversary or a deployment does", (Attack,)),
    "prompts": ("Attacks by prompt: the same asked in other words", (PromptAttack,)),
    "projectors": ("Projectors: how both gradients are merged", (Projector,)),
    "transforms": ("Gradient transforms: the forget gradient rewritten", (GradientTransform,)),
    "guards": ("Parts of guards: what a step may not do", (Rule, Directions, Geometry, Storage, Subspace)),
    "callbacks": ("Callbacks: when it happens", ()),
    "selectors": ("Selectors: which weights matter", (Selector, Choice)),
    "edits": ("Edits: weights changed once", (Edit,)),
    "audits": ("Audits: what is observed", (Audit,)),
    "metrics": ("Metrics: what is still known", (KnowledgeMetric,)),
    "reading": ("Readouts and references: how networks are read", (Readout, Reference)),
    "data": ("Orders and companions: what goes beside what", (Order, Companion)),
}
_FORMULA = re.compile(r"^\.\. math::.*(?:\n(?:[ \t]+.*|[ \t]*$))*", flags=re.MULTILINE)
_SOURCE = re.compile(r"^References:\n((?:[ \t]+.*\n?|\s*\n)+)", flags=re.MULTILINE)


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this."""
    app.connect("builder-inited", _write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _write(app: Sphinx) -> None:
    folder = Path(app.srcdir) / "gallery"
    write(folder / "index.rst", "\n".join(_index()))
    for kind in KINDS:
        write(folder / f"{kind}.rst", "\n".join(_page(kind)))


def members(kind: str) -> list[tuple[str, type]]:
    """Full names and classes of one page; prompt attacks have a page of their own."""
    if kind == "callbacks":
        named = [(f"{homes()[callbacks.__name__, n]}.{n}", getattr(callbacks, n)) for n in sorted(callbacks.__all__)]
        return [(name, value) for name, value in named if inspect.isclass(value) and not inspect.isabstract(value)]
    found = {pair for base in KINDS[kind][1] for pair in kinds_of(base)}
    return sorted(
        (p for p in found if kind != "attacks" or not issubclass(p[1], PromptAttack)), key=lambda p: p[1].__name__
    )


_ABOVE = """\
Gallery of methods
==================

Made from the classes when these pages are built. *Back* is what the worst of 38 attackers brought back beyond the control in
the study :doc:`which forgetting stays </measured/index>` (mean, smallest and largest of three seeds); most methods have not
been in it yet, and say nothing. Costs are those of the machine in each result file, and of no other.

.. list-table::
   :widths: auto
"""


def _index() -> Iterator[str]:
    yield _ABOVE
    for kind, (said, _) in KINDS.items():
        name, _, what = said.partition(": ")
        yield from (f"   * - :doc:`{name} <{kind}>`", f"     - {what}", f"     - {len(members(kind))}")
    yield from ("", ".. toctree::", "   :hidden:", "")
    yield from (f"   {said.partition(':')[0]} <{kind}>" for kind, (said, _) in KINDS.items())


def _page(kind: str) -> Iterator[str]:
    title = KINDS[kind][0]
    yield from (title, "=" * len(title), "", ".. list-table::", "   :widths: auto", "")
    for _, one in members(kind):
        yield from (f"   * - :ref:`{one.__name__} <{kind}-{one.__name__}>`", f"     - {first_paragraph(one)}")
    yield ""
    for name, one in members(kind):
        yield from _entry(kind, name, one)


def _entry(kind: str, name: str, one: type) -> Iterator[str]:
    text = inspect.getdoc(one) or ""
    formula, source = _FORMULA.search(text), _SOURCE.search(text)
    yield from (f".. _{kind}-{one.__name__}:", "", one.__name__, "-" * len(one.__name__), "")
    yield from (f":py:class:`~{name}`. {first_paragraph(one)}", "")
    if formula:
        yield from (formula[0].rstrip(), "")
    if source:
        anonymous = re.sub(r"`_(?!_)", "`__", source[1])  # a named one would take the name of the section
        yield f":Source: {' '.join(anonymous.split())}"
    if names := configs(one.__name__):
        yield f":Configuration: {', '.join(f'``bundled:{config}``' for config in names[:4])}"
    yield f":Cost: {cost(one.__name__) or 'not measured by itself'}"
    yield from (f":Needs: {_needs(one)}", "") if issubclass(one, Objective) else ("",)
    met = withstood(one.__name__)
    if not met and issubclass(one, (Objective, Projector, GradientTransform)):
        yield from ("What it withstands has not been measured yet.", "")
    if met:
        yield from (".. list-table::", "   :header-rows: 1", "   :widths: auto", "")
        yield from ("   * - As part of", "     - Back, 20 steps", "     - Back, 100 steps", "     - Passes a step")
        for row in met:
            yield from (f"   * - {row.method}", *(f"     - {cell}" for cell in row[1:]))
        yield ""


def _needs(one: type) -> str:
    reference = "the original's view" if getattr(one, "needs_reference", False) else "no original"
    return f"{reference}, {'all logits' if getattr(one, 'needs_logits', True) else 'likelihoods alone'}"


@cache
def _texts() -> dict[str, str]:
    """What each bundled configuration says itself, comments aside; those for one objective first."""
    found = sorted(bundled_configs().items(), key=lambda pair: (pair[1].parent.name != "objectives", pair[0]))
    return {name: re.sub(r"#.*", "", path.read_text()) for name, path in found}


def configs(name: str) -> list[str]:
    """The bundled configurations that name this class."""
    return [config for config, text in _texts().items() if re.search(rf"\b{name}\b", text)]
