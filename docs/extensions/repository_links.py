"""Links out of `docs/`, as they work on the repository's page, lead there from the built pages, too."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from urllib.parse import quote

from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)
DOCS = Path(__file__).resolve().parents[1]
ROOT = DOCS.parent
SOURCE = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Source"]


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this."""
    app.connect("source-read", _rewrite)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _rewrite(app: Sphinx, page: str, content: list[str]) -> None:
    folder = (Path(app.srcdir) / page).parent.resolve()

    def included(found: re.Match[str]) -> str:
        file = (folder / found[1]).resolve()
        return _with_links(file.read_text(), page, file.parent, folder)

    content[0] = re.sub(r"```\{include\} (\S+)\n```", included, _with_links(content[0], page, folder, folder))


def _with_links(text: str, page: str, beside: Path, folder: Path) -> str:
    """Links of a text that lies ``beside`` other files, as they are right in a page of ``folder``."""

    def right(link: re.Match[str]) -> str:
        target = (beside / link[1]).resolve()
        if target.is_relative_to(DOCS):
            return f"]({os.path.relpath(target, folder)}{link[2] or ''})"
        if not target.exists():
            logger.warning("`%s` links to `%s`, which does not exist.", page, link[1])
        kind = "tree" if target.is_dir() else "blob"
        return f"]({SOURCE}/{kind}/main/{quote(str(target.relative_to(ROOT)))}{link[2] or ''})"

    return re.sub(r"\]\((?![\w+.-]+:|#)([^)#\s]+)(#[^)]*)?\)", right, text)
