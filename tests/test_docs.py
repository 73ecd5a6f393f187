"""The documentation: every block runs, every link leads somewhere, and where Sphinx is installed the pages are built."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import zlib
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import pytest
from _pages import DOCS, MADE, ROOT, RUN, SHOWN, blocks, commands, run_page

import lightning_unlearn
import lightning_unlearn.objectives
import lightning_unlearn_command
from lightning_unlearn.cli import bundled_configs

PACKAGE = Path(lightning_unlearn.__file__).parent
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
    "tutorials/a-model-and-its-control.md": {"max_epochs: 50": "max_epochs: 1"},
    "how-to/qlora.md": {"trainer: {max_epochs: 10}": "unlearn: {under: null}\ntrainer: {max_epochs: 1}"},
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


@pytest.mark.parametrize("name", [name for name in PAGES if "/" in name])
def test_every_configuration_is_a_file_that_its_page_runs(name: str) -> None:
    """Those of pages at the top are accepted by the command line: `test_readme.py`."""
    texts = [text for language, text in blocks(PAGES[name]) if language == "yaml"]
    assert all(re.match(r"# [\w-]+\.yaml\n", text) for text in texts)
    assert not texts or name in RUNNING


@pytest.mark.slow
@pytest.mark.timeout(1200)
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


def refuse_without_sphinx() -> None:
    missing = [name for name in ("sphinx", "furo", "myst_parser", "sphinx_copybutton") if find_spec(name) is None]
    if missing:
        pytest.skip(f"the `docs` extra is not installed: {', '.join(missing)}")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages as `make docs` builds them: with warnings as errors."""
    refuse_without_sphinx()
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", str(folder / "seen"), str(DOCS)]
    done = subprocess.run([*build, str(folder / "site")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "site"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_pages_are_built_without_a_warning_and_describe_every_public_name(site: Path) -> None:
    """Which names are public is read from the files here, not from the imported package."""
    lists = {path.parent: listed(path) for path in PACKAGE.rglob("__init__.py")}
    *_, packed = (site / "objects.inv").read_bytes().split(b"\n", 4)  # four lines, then `name py:class 1 address title`
    lines = [line.split() for line in zlib.decompress(packed).decode().splitlines()]
    short = {name.rpartition(".")[2] for name, kind, *_ in lines if kind.startswith("py:")}
    assert sum(map(len, lists.values())) > 600
    assert {name for names in lists.values() for name in names} - short == set()
    for folder in (path for path, names in lists.items() if names):
        page = ".".join(folder.relative_to(PACKAGE).parts) or "index"
        assert (site / "api" / f"{page}.html").exists()


def listed(path: Path) -> list[str]:
    """What a package offers."""
    lists = [
        node.value
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    return ast.literal_eval(lists[0]) if lists else []


@pytest.fixture
def extensions(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_without_sphinx()
    monkeypatch.syspath_prepend(str(DOCS / "extensions"))


def test_a_link_between_pages_that_leads_nowhere_is_noticed(extensions: None, tmp_path: Path) -> None:
    from page_links import broken_links

    (tmp_path / "a.html").write_text('<a href="b.html#there">1</a><a href="b.html#not">2</a><a href="c.html">3</a>')
    (tmp_path / "b.html").write_text('<h1 id="there">B</h1><a href="https://arxiv.org">4</a><a href="#there">5</a>')
    assert broken_links(tmp_path) == [("a.html", "b.html#not"), ("a.html", "c.html")]


def test_a_public_name_that_nothing_is_said_of_is_noticed(extensions: None, monkeypatch: pytest.MonkeyPatch) -> None:
    import api_pages
    import rooms

    class Unsaid(lightning_unlearn.NPO):
        pass

    npo = ("lightning_unlearn.objectives", "NPO")
    monkeypatch.setattr(api_pages, "homes", lambda: {npo: npo[0], (npo[0], "DPO"): npo[0]})
    monkeypatch.setattr(lightning_unlearn.objectives, "NPO", Unsaid)
    rooms.rooms.cache_clear()
    warned: list[str] = []
    monkeypatch.setattr(api_pages.logger, "warning", lambda text, *given: warned.append(text % given))
    found = SimpleNamespace(get_domain=lambda name: SimpleNamespace(objects={".".join(npo): None}))
    api_pages._miss_nothing(None, found)  # type: ignore[arg-type]
    rooms.rooms.cache_clear()
    assert warned == [
        "`lightning_unlearn.objectives.NPO` is public, and nothing is said of it.",
        "`lightning_unlearn.objectives.DPO` is public, and no page describes it.",
    ]
