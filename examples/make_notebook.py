"""Make the notebooks of some pages of `docs/`: the page, with its blocks as cells.

    python examples/make_notebook.py

Python becomes a cell as it is, a configuration a cell that writes its file (named in its first line), commands are called
with `!`. Rows that the page only shows stay text. Nothing is executed here, so there is no output to strip.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
PAGES = {
    "forget_a_fact.ipynb": ("tutorials/a-model-and-its-control.md", "forget-a-fact-in-your-own-model.md"),
    "existing_loop.ipynb": ("tutorials/existing-loop.md",),
    "vision.ipynb": ("tutorials/vision.md",),
}
_BLOCK = re.compile(r"^```(python|yaml|sh)\n(.*?)\n```$", flags=re.DOTALL | re.MULTILINE)


def notebook(*pages: Path) -> dict[str, Any]:
    """Pages, one after the other, as a notebook in the format of Jupyter."""
    cells = [cell for page in pages for cell in _cells(page.read_text(), page.parent)]
    numbered = [{"id": f"cell-{number}", **cell} for number, cell in enumerate(cells) if cell["source"]]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    about = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": numbered, "metadata": about, "nbformat": 4, "nbformat_minor": 5}


def _cells(page: str, folder: Path) -> list[dict[str, Any]]:
    parts = _BLOCK.split(page)  # text, then kind, code and text for each block
    cells = [_markdown(parts[0], folder)]
    for kind, code, text in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        cells += [_cell("code", _as_cell(kind, code)), _markdown(text, folder)]
    return cells


def _as_cell(kind: str, code: str) -> str:
    if kind == "python":
        return code
    if kind == "sh":
        return "\n".join(f"!{command}" for command in re.sub(r"\s*\\\n\s*", " ", code).splitlines())
    first, rest = code.split("\n", 1)
    return f"%%writefile {first.removeprefix('# ')}\n{rest}"


def _markdown(text: str, folder: Path) -> dict[str, Any]:
    """Links lead from here to where they led from the page."""

    def from_here(link: re.Match[str]) -> str:
        return f"]({os.path.relpath(folder / link[1], HERE)}"

    return _cell("markdown", re.sub(r"\]\((?!https?:|#)([^)#]+)", from_here, text))


def _cell(kind: str, text: str) -> dict[str, Any]:
    lines = text.strip("\n").splitlines(keepends=True)
    code = {"execution_count": None, "outputs": []} if kind == "code" else {}
    return {"cell_type": kind, "metadata": {}, **code, "source": lines}


if __name__ == "__main__":
    for name, pages in PAGES.items():
        made = notebook(*(DOCS / page for page in pages))
        (HERE / name).write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n")
