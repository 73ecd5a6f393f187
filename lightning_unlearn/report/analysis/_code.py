"""Which code made a report."""

import hashlib
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[2]
_PATIENCE = 10  # seconds; a large repository on a slow disk is not worth more


def code_facts(folder: str | Path = ".") -> dict[str, Any]:
    """A hash of this package's files; commit of ``folder``, and whether it was changed, if it is in a git repository.

    Never a path, a user or the name of a branch.

    Example:
        >>> code_facts()["package_hash"].startswith("sha256:")
        True
    """
    facts: dict[str, Any] = {"package_hash": package_hash()}
    if (commit := _git(folder, "rev-parse", "HEAD")) is not None:
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
        facts |= {"git_commit": commit, "git_dirty": None if changed is None else bool(changed)}
    return facts


@cache
def package_hash() -> str:
    """SHA-256 of names and contents of the package's Python files."""
    found = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        found.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return f"sha256:{found.hexdigest()}"


def _git(folder: str | Path, *command: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *command], capture_output=True, text=True, timeout=_PATIENCE, check=True
        )
    except (OSError, subprocess.SubprocessError):  # no git, no repository, or it takes too long
        return None
    return done.stdout.strip()
