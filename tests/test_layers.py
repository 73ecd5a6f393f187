"""Who may know whom: read from the imports of every file, those inside functions included."""

from __future__ import annotations

import ast
import inspect
import pkgutil
import re
from collections.abc import Iterator
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import lightning.pytorch as pl

import lightning_unlearn

PACKAGE = Path(lightning_unlearn.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
LAYERS = [
    ["functional", "bundled"],
    ["prediction", "observation"],
    ["runtime"],
    ["models", "readouts", "objectives", "references", "projectors", "metrics"],
    ["engine", "data", "disruption"],
    ["selectors", "edits", "transforms", "attacks", "audits"],
    ["finetuning", "forgetting", "guards", "checks", "budgets"],
    ["callbacks", "requests", "report", "module"],
    ["auditing", "loops"],
    ["publishing"],
    ["cli"],
    ["__init__", "__main__"],
]
RANK = {part: rank for rank, parts in enumerate(LAYERS) for part in parts}
WITHOUT_LIGHTNING = {
    "functional",
    "prediction",
    "observation",
    "runtime",
    "objectives",
    "projectors",
    "readouts",
    "metrics",
    "references",
}
ROOMS_OF_CALLBACKS = ("callbacks", "budgets", "finetuning", "forgetting", "guards", "checks", "transforms", "auditing")
LIGHTNING = {"lightning", "pytorch_lightning", "lightning_fabric"}

UPWARD: dict[tuple[str, str], str] = {
    ("cli/_script.py", "__init__"): "to find the folder of the package, whose errors are shown without a traceback",
}
OTHER_CALLBACKS = {"lightning_unlearn.cli._cli.SaveConfig": "LightningCLI is told the class of its own callback"}


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree: ast.AST) -> Iterator[str]:
    """Full names of all that is imported, anywhere in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (arg.value for arg in node.args if isinstance(arg, ast.Constant))


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def test_files_were_found_and_each_part_has_its_layer() -> None:
    assert len(FILES) > 50
    assert {part_of(path) for path in FILES} == set(RANK)


def upward(path: Path, tree: ast.AST) -> set[str]:
    found = set()
    for name in imported(tree):
        if name.split(".")[0] == "lightning_unlearn":
            head = name.split(".")[1] if "." in name else "__init__"
            part = head if head in RANK else "__init__"
            if RANK[part] > RANK[part_of(path)]:
                found.add(part)
    return found


def test_a_file_knows_only_its_own_layer_and_those_below() -> None:
    found = {(name_of(path), part) for path in FILES for part in upward(path, parse(path))}
    assert found == set(UPWARD)


def test_lazy_and_upward_imports_are_noticed() -> None:
    tree = ast.parse("def f():\n    from lightning_unlearn.callbacks import Unlearn\n    import lightning_unlearn.cli")
    assert upward(PACKAGE / "functional" / "chunks.py", tree) == {"callbacks", "cli"}


def test_parts_of_one_layer_do_not_know_each_other_in_circles() -> None:
    knows: dict[str, set[str]] = {part: set() for part in RANK}
    for path in FILES:
        top = [node for node in parse(path).body if isinstance(node, ast.Import | ast.ImportFrom)]
        for name in imported(ast.Module(top, [])):
            head = name.split(".")[1:2]
            if name.startswith("lightning_unlearn.") and head[0] in RANK and head[0] != part_of(path):
                knows[part_of(path)].add(head[0])
    while free := [part for part, others in knows.items() if not others]:
        for part in free:
            del knows[part]
        for others in knows.values():
            others.difference_update(free)
    assert not knows


def top_level(tree: ast.Module) -> Iterator[ast.stmt]:
    """Statements that run, or are checked for types, when the file is imported."""
    for node in tree.body:
        yield from node.body if isinstance(node, ast.If) else [node]


def file_of(name: str) -> str | None:
    """The file that `from` or `import` of this full name runs, most specific first; a package is its `__init__`."""
    parts = name.split(".")[1:]
    for end in range(len(parts), -1, -1):
        stem = "/".join(parts[:end])
        for candidate in (f"{stem}.py", f"{stem}/__init__.py" if stem else "__init__.py"):
            if (PACKAGE / candidate).is_file():
                return candidate
    return None


def cycles(knows: dict[str, set[str]]) -> set[str]:
    """Those that are left when what knows nobody who is left is taken away, again and again."""
    knows = {key: set(value) for key, value in knows.items()}
    while free := {key for key, others in knows.items() if not others & knows.keys()}:
        knows = {key: others for key, others in knows.items() if key not in free}
    return set(knows)


def test_no_files_import_each_other_in_circles_imports_for_types_included() -> None:
    knows: dict[str, set[str]] = {}
    for path in FILES:
        body = ast.Module(list(top_level(parse(path))), [])
        own = name_of(path)
        files = {file_of(name) for name in imported(body) if name.split(".")[0] == "lightning_unlearn"}
        # A file may name its own package's `__init__` nowhere: that one imports the file.
        knows[own] = {file for file in files if file is not None and file != own}
    assert len(knows) == len(FILES)
    assert cycles(knows) == set()


def test_a_cycle_is_noticed() -> None:
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": set()}) == {"a", "b", "c"}
    assert file_of("lightning_unlearn.guards.StepGuard") == "guards/__init__.py"


def test_what_is_pure_never_imports_lightning() -> None:
    pure = [path for path in FILES if part_of(path) in WITHOUT_LIGHTNING]
    knows = {name_of(path) for path in pure for name in imported(parse(path)) if LIGHTNING & {name.split(".")[0]}}
    assert knows == set()


def identifiers(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
    for name in imported(tree):
        yield from name.split(".")


def test_only_the_engine_knows_strategies_by_class() -> None:
    """It tells them by name, and imports them in one place, to make some; elsewhere they stand in messages at most."""
    known = {name_of(path) for path in FILES for name in identifiers(parse(path)) if re.fullmatch(r"\w+Strategy", name)}
    assert known == {"engine/_joined.py"}
    assert "DDPStrategy" in (PACKAGE / "engine" / "_strategy.py").read_text()


def asked_of_one_package(tree: ast.Module) -> set[str]:
    """What `isinstance` and `issubclass` are given of `lightning`: an object of `pytorch_lightning` is none of these."""
    froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    names = {alias.name for node in froms for alias in node.names if str(node.module).split(".")[0] in LIGHTNING}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    asked = [call.args[1] for call in calls if ast.unparse(call.func) in {"isinstance", "issubclass"}]
    words = {ast.unparse(part) for arg in asked for part in ast.walk(arg) if isinstance(part, ast.Name | ast.Attribute)}
    return {word for word in words if word.startswith("pl.") or word in names}


def test_nobody_asks_whether_an_object_is_of_one_of_lightnings_packages() -> None:
    """`lightning_class` and `in_each_package` of `runtime` ask for both."""
    found = {(name_of(path), word) for path in FILES for word in asked_of_one_package(parse(path))}
    assert found == {("cli/_script.py", "MisconfigurationException")}  # of our own command line, whose trainer is known


def test_such_a_question_is_noticed() -> None:
    tree = ast.parse(
        "from lightning.pytorch.utilities import Loader\nisinstance(a, (int, Loader)) or isinstance(b, pl.X)"
    )
    assert asked_of_one_package(tree) == {"Loader", "pl.X"}


def modules() -> list[ModuleType]:
    found = pkgutil.walk_packages([str(PACKAGE)], "lightning_unlearn.")
    return [lightning_unlearn, *(import_module(m.name) for m in found if not m.name.endswith("__main__"))]


def test_only_callbacks_are_callbacks() -> None:
    classes = {c for m in modules() for c in vars(m).values() if inspect.isclass(c) and issubclass(c, pl.Callback)}
    own = {f"{c.__module__}.{c.__name__}" for c in classes if c.__module__.startswith("lightning_unlearn.")}
    elsewhere = {name for name in own if name.split(".")[1] not in ROOMS_OF_CALLBACKS}
    assert elsewhere == set(OTHER_CALLBACKS)
    assert "lightning_unlearn.forgetting._unlearn.Unlearn" in own


def test_callbacks_holds_no_helper_that_belongs_to_one_job() -> None:
    """A job of several files has a room of its own; here are the small callbacks, and what brings them along."""
    room = import_module("lightning_unlearn.callbacks")
    files = {path.stem for path in (PACKAGE / "callbacks").glob("_*.py")} - {"__init__"}
    offered = {getattr(room, name).__module__.rpartition(".")[2] for name in room.__all__}
    assert files
    assert files <= offered


def test_files_are_named_for_what_they_hold() -> None:
    names = {part.strip("_") for path in FILES for part in path.relative_to(PACKAGE).with_suffix("").parts}
    assert not names & {"utils", "util", "helpers", "helper", "common", "misc", "other", "tools"}


def test_files_are_small() -> None:
    # A list of names is an index, not something to read: one line for each name, however many parts there are.
    lengths = sorted(len(path.read_text().partition("__all__ = [")[0].splitlines()) for path in FILES)
    assert lengths[-1] <= 300
    assert lengths[len(lengths) // 2] <= 75


def test_every_public_name_exists_and_has_a_docstring() -> None:
    offered = {(m.__name__, name): getattr(m, name) for m in modules() for name in getattr(m, "__all__", [])}
    assert len(offered) > 80
    values = documented_values()
    bare = {
        key
        for key, value in offered.items()
        if not (
            (value.__doc__ or "").strip() if inspect.isclass(value) or inspect.isroutine(value) else key[1] in values
        )
    }
    assert bare == set()


def documented_values() -> set[str]:
    """Names assigned at the top of some file, with a text below that says what they are."""
    found = set()
    for path in FILES:
        body = parse(path).body
        for statement, below in pairwise(body):
            if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                assigned = [node for node in ast.walk(statement) if isinstance(node, ast.Assign)]
                found |= {t.id for node in assigned for t in node.targets if isinstance(t, ast.Name)}
    return found


def test_packages_list_what_they_offer() -> None:
    packages = [m for m in modules() if hasattr(m, "__path__")]
    without = [m.__name__ for m in packages if not getattr(m, "__all__", None)]
    assert without == ["lightning_unlearn.functional"]  # its files are the modules: `functional.likelihood`
