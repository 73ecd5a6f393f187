"""What CONTRIBUTING says is so: its paths exist, its lists are where it says, its layers are those that are held."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
PATHS = sorted(set(re.findall(r"`((?!\.\./)(?:[\w.]+/)+[\w.]*)`", TEXT)))  # what lies beside a clone need not be there
LISTS = re.findall(r"`([A-Z_]{2,})` in `(tests/[\w/.]+\.py)`", TEXT)


def exists(path: str) -> bool:
    """From the root, or from the package; `_mine.py` stands for a file that is to come."""
    return any((folder / path.removesuffix("_mine.py")).exists() for folder in (ROOT, ROOT / "lightning_unlearn"))


def test_paths_and_lists_were_found() -> None:
    assert len(PATHS) > 30
    assert len(LISTS) > 10


@pytest.mark.parametrize("path", PATHS)
def test_every_path_exists(path: str) -> None:
    assert exists(path)


def test_a_path_that_does_not_exist_is_noticed() -> None:
    assert exists("objectives/_mine.py")
    assert not exists("tests/unit/objectives/test_nothing.py")
    assert not exists("no_such_room/_mine.py")


@pytest.mark.parametrize(("name", "path"), LISTS)
def test_every_list_is_in_its_file(name: str, path: str) -> None:
    assert re.search(rf"^{name}\b.* = ", (ROOT / path).read_text(), flags=re.MULTILINE)


def layers() -> list[set[str]]:
    """From the lowest, as `test_layers.py` holds them."""
    tree = ast.parse((ROOT / "tests" / "test_layers.py").read_text())
    (value,) = (n.value for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "LAYERS")
    return [set(layer) for layer in ast.literal_eval(value)]


def test_the_layers_drawn_are_those_that_are_held() -> None:
    _, _, drawing = TEXT.partition("## Who may know whom")
    (block,) = re.findall(r"```text\n(.*?)```", drawing.partition("\n## ")[0], flags=re.DOTALL)
    drawn: list[set[str]] = [set()]
    for line in block.splitlines():
        if line.strip() == "|":
            drawn.append(set())
        elif not line.startswith(" "):
            drawn[-1].update(re.split(r" {3,}", line)[0].split())  # what is said of a room stands further right
    assert drawn[::-1] == [layer for layer in layers() if "__init__" not in layer]
