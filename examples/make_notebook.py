"""Make the notebook of `docs/forget-a-fact-in-your-own-model.md`: the page, with its blocks as cells.

    python examples/make_notebook.py

Python becomes a cell as it is, a configuration a cell that writes its file (named in its first line), commands are called
with `!`. Rows that the page only shows stay text. Nothing is executed here, so there is no output to strip.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "forget-a-fact-in-your-own-model.md"
NOTEBOOK = HERE / "forget_a_fact.ipynb"
_BLOCK = re.compile(r"^```(python|yaml|sh)\n(.*?)\n```$", flags=re.DOTALL | re.MULTILINE)


def notebook(page: str) -> dict[str, Any]:
    """The page as a notebook, in the format of Jupyter."""
    parts = _BLOCK.split(page)  # text, then kind, code and text for each block
    cells = [_cell("markdown", parts[0])]
    for kind, code, text in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        cells += [_cell("code", _as_cell(kind, code)), _cell("markdown", text)]
    numbered = [{"id": f"cell-{number}", **cell} for number, cell in enumerate(cells) if cell["source"]]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    about = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": numbered, "metadata": about, "nbformat": 4, "nbformat_minor": 5}


def _as_cell(kind: str, code: str) -> str:
    if kind == "python":
        return code
    if kind == "sh":
        return "\n".join(f"!{command}" for command in re.sub(r"\s*\\\n\s*", " ", code).splitlines())
    first, rest = code.split("\n", 1)
    return f"%%writefile {first.removeprefix('# ')}\n{rest}"


def _cell(kind: str, text: str) -> dict[str, Any]:
    if kind == "markdown":  # links to pages beside the page lead there from here, too
        text = re.sub(r"\]\((?!http|\.\.|#)", "](../docs/", text)
    lines = text.strip("\n").splitlines(keepends=True)
    code = {"execution_count": None, "outputs": []} if kind == "code" else {}
    return {"cell_type": kind, "metadata": {}, **code, "source": lines}


if __name__ == "__main__":
    NOTEBOOK.write_text(json.dumps(notebook(PAGE.read_text()), indent=1, ensure_ascii=False) + "\n")
