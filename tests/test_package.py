"""What somebody who has only the package meets: what it holds, what its pages say, what importing it costs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_bytes
from email.message import Message
from itertools import chain
from pathlib import Path

import pytest
import yaml

import lightning_unlearn

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
README = (ROOT / "README.md").read_text()
MADE_BY_THE_BUILD = {"PKG-INFO", "setup.cfg"}
BUILD = "from setuptools import build_meta as b; b.build_sdist('out'); b.build_wheel('out')"
# Each takes longer to import than all of this package, or draws in what does.
HEAVY = ("transformers.modeling_utils", "transformers.models", "peft", "accelerate", "matplotlib", "scipy", "datasets")
HEAVY += ("bitsandbytes", "sklearn", "pandas", "torchjd", "gguf", "torchao")


def tracked() -> list[str]:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("only a clone knows which files are the repository's")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [name for name in listed.splitlines() if (ROOT / name).exists()]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with wheel and sdist, built by the backend itself: without network, and in a copy of what is tracked."""
    here = tmp_path_factory.mktemp("package")
    for name in tracked():
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, here / name)
    subprocess.run([sys.executable, "-W", "ignore", "-c", BUILD], cwd=here, check=True, capture_output=True)
    return here / "out"


@pytest.fixture(scope="module")
def in_sdist(built: Path) -> set[str]:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        return {member.name.partition("/")[2] for member in archive if member.isfile()}


@pytest.fixture(scope="module")
def in_wheel(built: Path) -> dict[str, bytes]:
    (path,) = built.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def metadata(in_wheel: dict[str, bytes]) -> Message:
    return message_from_bytes(next(text for name, text in in_wheel.items() if name.endswith("METADATA")))


def test_the_sdist_is_the_repository_with_all_of_its_tests(in_sdist: set[str]) -> None:
    by_the_build = {name for name in in_sdist if name in MADE_BY_THE_BUILD or ".egg-info/" in name}
    assert in_sdist - by_the_build == set(tracked())


def test_the_wheel_is_the_package_with_all_of_its_files_and_nothing_else(in_wheel: dict[str, bytes]) -> None:
    own = {name for name in tracked() if name.startswith("lightning_unlearn")}
    assert {name for name in in_wheel if ".dist-info/" not in name} == own
    assert {Path(name).suffix for name in own} >= {".yaml", ".jsonl", ".json", ".j2", ".css", ".mplstyle", ".typed"}


def test_the_page_on_pypi_has_no_link_that_needs_the_files_beside_it(metadata: Message) -> None:
    page = str(metadata.get_payload())
    source = PROJECT["urls"]["Source"]
    targets = re.findall(r"\]\(([^)]+)\)", page)
    assert len(targets) > 10
    assert [target for target in targets if not target.startswith(("https://", "#"))] == []
    assert f"]({source}/blob/main/docs/audit-a-model.md)" in page
    assert metadata["Description-Content-Type"] == "text/markdown"


def test_the_page_on_pypi_leads_to_source_documents_changes_and_issues(metadata: Message) -> None:
    urls = dict(text.split(", ", 1) for text in metadata.get_all("Project-URL", []))
    assert urls.keys() == {"Source", "Documentation", "Changelog", "Issues"}
    assert all(url.startswith(urls["Source"]) for url in urls.values())
    for name in ("Documentation", "Changelog"):
        assert (ROOT / urls[name].partition("/main/")[2]).exists()


def test_the_command_is_the_module_that_needs_no_torch(in_wheel: dict[str, bytes]) -> None:
    points = next(text.decode() for name, text in in_wheel.items() if name.endswith("entry_points.txt"))
    assert "lightning-unlearn = lightning_unlearn_command:script" in points


def test_every_extra_is_told_of_once() -> None:
    _, _, below = README.partition("| extra |")
    rows = re.findall(r"^\| `(\w+)` \|", below.partition("\n\n")[0], flags=re.MULTILINE)
    assert rows == list(PROJECT["optional-dependencies"])


def test_there_is_one_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert PROJECT["version"] == lightning_unlearn.__version__ == citation["version"]
    assert citation.keys() >= {"cff-version", "message", "title", "authors"}
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert re.findall(r"^## \[(.+?)\]", changes, flags=re.MULTILINE)[0] in ("Unreleased", PROJECT["version"])


def test_a_release_is_refused_as_long_as_the_project_has_no_address(tmp_path: Path) -> None:
    """And only a release: nothing else asks for the address. `package`, which builds, is taken for done."""
    for name in ("Makefile", "CHANGELOG.md", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    release = ["make", "-o", "package", "release"]
    refused = subprocess.run(release, cwd=tmp_path, capture_output=True, text=True, check=False)
    placeholders = [url for url in PROJECT["urls"].values() if ".example/" in url]
    assert ("should say where the project lives" in refused.stdout) == bool(placeholders)
    assert (refused.returncode != 0) or not placeholders
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text().replace(".example/", ".org/"))
    later = subprocess.run(release, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "should say where the project lives" not in later.stdout
    assert "heading for this version" not in later.stdout


def test_the_workflow_runs_every_python_that_the_classifiers_name() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())["jobs"]
    named = [text.rpartition(" ")[2] for text in PROJECT["classifiers"] if "Python :: 3." in text]
    assert jobs["newest"]["strategy"]["matrix"]["python"] == named
    commands = {
        step["run"].split()[1] for job in jobs.values() for step in job["steps"] if "make" in step.get("run", "")
    }
    makefile = (ROOT / "Makefile").read_text()
    assert commands == {"newest", "lowest", "package"}
    assert all(f"\n{command}:" in makefile for command in commands)
    assert f"PYTHONS      ?= {' '.join('python' + version for version in named)}" in makefile


def test_the_lowest_of_every_dependency_is_what_make_lowest_installs(tmp_path: Path) -> None:
    (script,) = re.findall(r"^LOWEST_OF +:= (.+)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    found = subprocess.run(
        ["sed", "-nE", script, str(ROOT / "pyproject.toml")], check=True, capture_output=True, text=True
    )
    asked = [*PROJECT["dependencies"], *chain(*PROJECT["optional-dependencies"].values())]
    bounds = [re.match(r"([a-z0-9-]+)(?:\[.*\])?>=([0-9.]+)", text) for text in asked]
    lowest = {f"{match[1]}=={match[2]}" for match in bounds if match}
    assert len(lowest) > 20
    assert set(found.stdout.split()) == lowest


def imported_by(code: str, after: str = "") -> set[str]:
    """Names of the modules that ``code`` brings into a fresh process in which ``after`` has been run."""
    told = f"import sys\n{after}\nbefore = set(sys.modules)\n{code}\nprint(*sys.modules.keys() - before)"
    ran = subprocess.run([sys.executable, "-W", "ignore", "-c", told], check=True, capture_output=True, text=True)
    return set(ran.stdout.split())


def heavy(names: set[str]) -> set[str]:
    return {name for name in names if name.startswith(tuple(f"{part}." for part in HEAVY)) or name in HEAVY}


def test_importing_the_package_brings_nothing_heavy_that_lightning_does_not() -> None:
    """They are imported when they are used; a plot or a model takes seconds anyway."""
    names = imported_by("import lightning_unlearn", after="import lightning.pytorch")
    assert "lightning_unlearn.forgetting._unlearn" in names
    assert heavy(names) == set()


def test_something_heavy_is_noticed() -> None:
    names = {"scipy.stats", "peft", "transformers.models.llama", "transformers", "torch", "peftlike"}
    assert heavy(names) == {"scipy.stats", "peft", "transformers.models.llama"}


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_help_and_versions_are_told_without_torch(argument: str) -> None:
    names = imported_by(f"from lightning_unlearn_command import answer; assert answer([{argument!r}])")
    assert "lightning_unlearn_command" in names
    assert not names & {"torch", "lightning", "lightning_unlearn", "transformers"}
