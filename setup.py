"""Settings are in `pyproject.toml`. Here is what they cannot say: README with links that work on PyPI, too."""

import re
import tomllib
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent


def with_absolute_links(text: str, source: str) -> str:
    """Links to files, `](docs/page.md#heading)`, lead to the repository; those to headings of the page itself stay."""
    return re.sub(r"\]\((?![\w+.-]+:|#)([^)]+)\)", rf"]({source}/blob/main/\1)", text)


if __name__ == "__main__":
    source = tomllib.loads((HERE / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Source"]
    readme = (HERE / "README.md").read_text(encoding="utf-8")
    setup(long_description=with_absolute_links(readme, source), long_description_content_type="text/markdown")
