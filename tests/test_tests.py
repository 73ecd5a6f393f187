"""Of the tests themselves: each can fail, and what several files share is in a module of its own."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parent
FILES = sorted(TESTS.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(), str(path)) for path in FILES}
IN_TEST_FILES = {path: tree for path, tree in TREES.items() if path.name.startswith("test_")}
SHARED = {path: tree for path, tree in TREES.items() if path.name.startswith("_")}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def test_the_tests_were_found() -> None:
    assert Path(__file__) in IN_TEST_FILES
    assert len(IN_TEST_FILES) > 50
    assert len(SHARED) > 5
    assert sum(1 for tree in IN_TEST_FILES.values() for _ in each_test(tree)) > 500


def each_test(tree: ast.Module) -> Iterator[Function]:
    """Those pytest runs: at the top of the file or of a class `Test...`. A method `test_step` is Lightning's."""
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name.startswith("Test")]
    for scope in (tree, *classes):
        yield from (node for node in scope.body if isinstance(node, Function) and node.name.startswith("test_"))


def each_function(tree: ast.AST) -> Iterator[Function]:
    yield from (node for node in ast.walk(tree) if isinstance(node, Function))


def each_module(tree: ast.AST) -> Iterator[str]:
    """Names of the modules that a file imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def from_tests(tree: ast.AST) -> list[str]:
    """Imports of test files, and of `tests`, which is a package only where the repository's root is on the path."""
    split = {name: name.split(".") for name in each_module(tree)}
    return [name for name, parts in split.items() if parts[0] == "tests" or any(p.startswith("test_") for p in parts)]


def test_nothing_is_imported_from_test_files() -> None:
    """What two of them use is in a file named for what it holds, such as `_sharded_fits.py`: `from _sharded_fits import`."""
    assert {path.name: found for path, tree in TREES.items() if (found := from_tests(tree))} == {}


def test_such_an_import_is_noticed() -> None:
    tree = ast.parse(
        "import torch\nfrom test_mine import fit\nfrom tests._a import f\ndef g():\n    import tests.test_other"
    )
    assert from_tests(tree) == ["test_mine", "tests._a", "tests.test_other"]


@cache
def called(function: ast.AST) -> set[str]:
    """What is called, dotted names included: `pytest.raises`, `assert_close`."""
    return {ast.unparse(node.func) for node in ast.walk(function) if isinstance(node, ast.Call)}


@cache
def claims_by_itself(function: ast.AST) -> bool:
    asserts = any(isinstance(node, ast.Assert) for node in ast.walk(function))
    last = {name.rpartition(".")[2] for name in called(function)}
    return asserts or any(name.startswith("assert") or name in {"raises", "warns", "fail"} for name in last)


def claiming(functions: list[Function]) -> set[str]:
    """Names of the functions that assert something, or call one that does."""
    found = {function.name for function in functions if claims_by_itself(function)}
    while more := {f.name for f in functions if f.name not in found and found & called(f)}:
        found |= more
    return found


def without_a_claim(tree: ast.Module) -> list[str]:
    helpers = claiming([f for part in (tree, *SHARED.values()) for f in each_function(part)])
    return [test.name for test in each_test(tree) if not claims_by_itself(test) and not helpers & called(test)]


def test_every_test_asserts_something() -> None:
    assert {path.name: found for path, tree in IN_TEST_FILES.items() if (found := without_a_claim(tree))} == {}


def test_a_test_without_a_claim_is_noticed() -> None:
    tree = ast.parse(
        "def test_runs(): fit()\n"
        "class TestIt:\n    def test_method(self): fit()\n"
        "class Module:\n    def test_step(self): fit()\n"
        "def test_by_a_helper(): compare()\n"
        "def compare(): deeper()\n"
        "def deeper(): assert_close(1, 1)\n"
        "def test_raises():\n    with pytest.raises(ValueError, match='x'): fit()\n"
    )
    assert without_a_claim(tree) == ["test_runs", "test_method"]
