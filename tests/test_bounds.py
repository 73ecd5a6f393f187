"""What `pyproject.toml` promises of other packages, against what CI really uses."""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import lightning_unlearn

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OWN = PROJECT["name"]
EXTRAS = PROJECT["optional-dependencies"]
IMPORT_NAMES = {"pyyaml": "yaml"}


def requirements(texts: Iterable[str]) -> dict[str, Requirement]:
    """By name, without our own extras that an extra names."""
    found = map(Requirement, texts)
    return {canonicalize_name(one.name): one for one in found if one.name != OWN}


DEPENDENCIES = requirements(PROJECT["dependencies"])
ALL = {**DEPENDENCIES, **{k: v for texts in EXTRAS.values() for k, v in requirements(texts).items()}}
PINNED = {
    name: next(iter(one.specifier)).version
    for name, one in requirements(
        line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")
    ).items()
}


@pytest.mark.parametrize("name", ALL)
def test_ci_uses_a_version_within_the_bounds(name: str) -> None:
    assert name in PINNED, "constraints.txt should pin it"
    assert PINNED[name] in ALL[name].specifier


@pytest.mark.parametrize("name", ALL)
def test_every_dependency_has_a_lowest_version(name: str) -> None:
    assert any(part.operator == ">=" for part in ALL[name].specifier)


@pytest.mark.parametrize("name", ["lightning", "pytorch-lightning"])
@pytest.mark.parametrize("version", ["2.6.2", "2.6.3", "2.6.5", "2.7.0"])
def test_no_version_of_lightning_that_was_compromised_open_or_never_tried(name: str, version: str) -> None:
    assert version not in ALL[name].specifier


def test_both_packages_are_pinned_to_one_version_and_dev_brings_every_extra() -> None:
    assert PINNED["lightning"] == PINNED["pytorch-lightning"]
    own = [Requirement(text) for text in EXTRAS["dev"] if Requirement(text).name == OWN]
    assert own[0].extras == set(EXTRAS) - {"dev"}


def test_whatever_is_imported_at_the_top_of_a_file_is_a_dependency() -> None:
    files = sorted(Path(lightning_unlearn.__file__).parent.rglob("*.py"))
    names = {name for path in files for name in imported(ast.parse(path.read_text()))}
    known = {IMPORT_NAMES.get(name, name.replace("-", "_")) for name in DEPENDENCIES}
    assert len(names) > 10
    ours = {
        OWN.replace("-", "_"),
        *tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["py-modules"],
    }
    assert names - known - set(sys.stdlib_module_names) == ours


def imported(tree: ast.Module) -> set[str]:
    """The packages that the statements at the top import."""
    whole = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    parts = {str(node.module) for node in tree.body if isinstance(node, ast.ImportFrom)}
    return {name.partition(".")[0] for name in whole | parts}


def test_python_is_what_ruff_and_the_classifiers_say() -> None:
    lowest = next(iter(Requirement(f"python{PROJECT['requires-python']}").specifier)).version
    ruff = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["target-version"]
    named = [text.rpartition(" ")[2] for text in PROJECT["classifiers"] if "Python :: 3." in text]
    assert ruff == "py" + lowest.replace(".", "")
    assert min(map(Version, named)) == Version(lowest)
    assert f"Python {lowest} or newer" in (ROOT / "README.md").read_text()
