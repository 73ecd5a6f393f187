"""The command line: Lightning's own, with unlearning, checks and a report beside it."""

from lightning_unlearn.cli._bundled import bundled_config, bundled_configs
from lightning_unlearn.cli._cli import UnlearnCLI
from lightning_unlearn.cli._config_file import read_config
from lightning_unlearn.cli._main import main
from lightning_unlearn.cli._script import script

__all__ = ["UnlearnCLI", "bundled_config", "bundled_configs", "main", "read_config", "script"]
