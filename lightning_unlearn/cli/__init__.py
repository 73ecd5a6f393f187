"""The command line: Lightning's own, with unlearning, checks and a report beside it."""

from lightning_unlearn.cli._cli import UnlearnCLI
from lightning_unlearn.cli._script import main, script

__all__ = ["UnlearnCLI", "main", "script"]
