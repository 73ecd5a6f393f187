"""The documentation: every block runs, every link leads somewhere, and where Sphinx is installed the pages are built."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

import pytest
from _pages import DOCS, ROOT, RUN, SHOWN, blocks, commands, run_page

import lightning_unlearn_command
from lightning_unlearn.cli import bundled_configs

MADE = ("api", "gallery", "measured", "_build")
PAGES = {
    str(path.relative_to(DOCS)): path.read_text()
    for path in sorted(DOCS.rglob("*.md"))
    if path.relative_to(DOCS).parts[0] not in MADE
}
ELSEWHERE = {"forget-a-fact-in-your-own-model.md"}  # `test_forget_a_fact.py`, with its notebook
RUNNING = [name for name, page in PAGES.items() if "python" in dict(blocks(page)) and name not in ELSEWHERE]
SHORTER = {
    "tutorials/five-minutes.md": {
        "lightning-unlearn demo\n": "lightning-unlearn demo --finetune_first.epochs=1 --trainer.max_epochs=1 "
        "--unlearn.under.relearn.init_args.steps=1 --recovery.attacks.relearn.init_args.steps=1 "
        "--recovery.attacks.adapter.init_args.steps=1\n"
    },
    "tutorials/hugging-face-lora.md": {"max_epochs=10": "max_epochs=1", "steps=20": "steps=2"},
    "tutorials/read-the-report.md": {"epochs=50": "epochs=1", "max_epochs=2": "max_epochs=1", "steps=10": "steps=2"},
}
"""What is to be seen takes longer; pages that assert something are run as they stand."""


def test_there_is_something_to_run() -> None:
    assert len(RUNNING) > 10
    assert set(SHORTER) <= set(RUNNING)


@pytest.mark.parametrize("name", PAGES)
def test_every_block_says_what_it_is(name: str) -> None:
    assert {language for language, _ in blocks(PAGES[name])} <= {*RUN, *SHOWN}


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNNING)
@pytest.mark.filterwarnings("ignore")  # a reader sees them, and goes on
def test_a_page_runs_from_top_to_bottom(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = run_page(PAGES[name], monkeypatch, SHORTER.get(name))
    assert names.keys() > {"__name__"}


@pytest.mark.parametrize("name", PAGES)
def test_commands_that_are_only_shown_exist(name: str) -> None:
    known = re.findall(r"^  ([a-z]+) ", lightning_unlearn_command.answer([]) or "", flags=re.MULTILINE)
    shown = chain.from_iterable(commands(text) for language, text in blocks(PAGES[name]) if language in ("bash", "sh"))
    for words in shown:
        if words[0] == "lightning-unlearn":
            assert words[1] in known
        for bundled in (word.removeprefix("bundled:") for word in words if word.startswith("bundled:")):
            assert bundled in bundled_configs()
        for script in (word for word in words if word.startswith("examples/")):
            assert (ROOT / script).exists()


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    """Without Sphinx, too. Pages that are made when the documentation is built are checked then."""
    for target in re.findall(r"\]\((?![a-z]+:|#)([^)#]+)", PAGES[name]):
        path = (DOCS / name).parent / target
        made = path.resolve().relative_to(ROOT).parts[:2] in {("docs", folder) for folder in MADE}
        assert made or path.exists(), target


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_pages_are_built_without_a_warning(tmp_path: Path) -> None:
    """Which holds, too: no public name is undocumented, and no link between pages is broken."""
    missing = [name for name in ("sphinx", "furo", "myst_parser", "sphinx_copybutton") if find_spec(name) is None]
    if missing:
        pytest.skip(f"the `docs` extra is not installed: {', '.join(missing)}")
    build = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", str(tmp_path / "seen"), str(DOCS)]
    done = subprocess.run([*build, str(tmp_path / "site")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "api" / "index.html").exists()
