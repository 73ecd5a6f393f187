"""Formulas as MathML, which browsers draw by themselves: no script, nothing loaded from elsewhere, readable offline."""

from __future__ import annotations

import re
from functools import reduce
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)

_BY_ANOTHER_NAME = {
    r"\\iff\b": r"\\;\\Longleftrightarrow\\;",
    r"\\dots\b": r"\\ldots",
    r"\\Big(?![a-zA-Z])": "",
    r"\\operatorname\*\{arg\\,(min|max)\}": r"\\arg\\\1",
}
"""Commands that docutils does not know, as patterns, and what says the same to it."""


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this."""
    app.add_html_math_renderer("mathml", (_inline, None), (_display, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _inline(translator: Any, node: nodes.Element) -> None:
    translator.body.append(_drawn(node, as_block=False))
    raise nodes.SkipNode


def _display(translator: Any, node: nodes.Element) -> None:
    translator.body.append(f'<div class="math">{_drawn(node, as_block=True)}</div>')
    raise nodes.SkipNode


def _drawn(node: nodes.Element, as_block: bool) -> str:
    formula = reduce(lambda text, pair: re.sub(*pair, text), _BY_ANOTHER_NAME.items(), node.astext())
    try:
        return tex2mathml(formula, as_block=as_block)
    except MathError as error:
        logger.warning("A formula cannot be drawn: %s\n%s", error, node.astext(), location=node)
        return ""
