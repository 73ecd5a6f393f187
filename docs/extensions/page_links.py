"""After the build: every link from one of our pages to another, with its heading, leads somewhere."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag

from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this."""
    app.connect("build-finished", _check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class _Page(HTMLParser):
    """What a page links to, and what can be linked to in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors = {"", "top"}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Any]]) -> None:
        found = dict(attrs)
        self.anchors |= {found[key] for key in ("id", "name") if found.get(key)}
        self.links += [found[key] for key in ("href", "src") if found.get(key)]


def broken_links(folder: Path) -> list[tuple[str, str]]:
    """Page and link, of all links inside of ``folder`` that lead nowhere."""
    pages = {path.resolve(): _Page(path.read_text()) for path in sorted(folder.rglob("*.html"))}
    return [
        (str(path.relative_to(folder.resolve())), link)
        for path, page in pages.items()
        for link in page.links
        if not link.startswith(("http:", "https:", "mailto:", "data:", "javascript:")) and not _leads(path, link, pages)
    ]


def _leads(path: Path, link: str, pages: dict[Path, _Page]) -> bool:
    address, anchor = urldefrag(link)
    target = (path.parent / unquote(address.partition("?")[0])).resolve() if address else path
    if target.is_dir():
        target /= "index.html"
    if target not in pages:
        return target.exists()
    return unquote(anchor) in pages[target].anchors


def _check(app: Sphinx, exception: Exception | None) -> None:
    if exception is None and app.builder.name == "html":
        for page, link in broken_links(Path(app.outdir)):
            logger.warning("`%s` links to `%s`, which leads nowhere.", page, link)
