from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from lightning_unlearn.cli._bundled import bundled_config, bundled_configs, description
from lightning_unlearn.cli._config_file import read_config
from lightning_unlearn.cli._yaml import dump_yaml

_ABOUT = (
    "List the configurations that come with the package, or print one, to start your own from: "
    "lightning-unlearn configs npo > mine.yaml"
)


def show_configs(arguments: Sequence[str]) -> None:
    """Run ``lightning-unlearn configs [NAME] [--merged]``."""
    parser = argparse.ArgumentParser("lightning-unlearn configs", description=_ABOUT)
    parser.add_argument("name", nargs="?", help="which one to print, such as npo; without it, all are listed")
    parser.add_argument("--merged", action="store_true", help="print it together with its base, as it is run")
    chosen = parser.parse_args(arguments)
    if chosen.name is None:
        _list()
    elif chosen.merged:
        path = bundled_config(chosen.name)
        sys.stdout.write(dump_yaml(read_config(path)))
    else:
        sys.stdout.write(bundled_config(chosen.name).read_text(encoding="utf-8"))


def _list() -> None:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, path in bundled_configs().items():
        table.add_row(name, description(path))
    console = Console(highlight=False)
    console.print(table)
    console.print(
        "\nTo run one:    lightning-unlearn fit --config bundled:NAME"
        "\nTo read one:   lightning-unlearn configs NAME (--merged: with its base)"
        "\nYour own file: base: bundled:NAME, and below it what differs",
        markup=False,
    )
