"""The command ``lightning-unlearn demo``: a report in a few minutes, from any folder."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from lightning_unlearn.cli._quiet_fit import quiet_fit
from lightning_unlearn.runtime import writable_folder

_ABOUT = (
    "A tiny model is taught facts about fictional people, forgets three of them, and is attacked; so is one that never knew "
    "them. Needs no download, and four minutes on two CPU cores. It is `fit --config bundled:quickstart`, and takes the "
    "same arguments."
)


def run_demo(arguments: Sequence[str]) -> None:
    """Run ``lightning-unlearn demo [--folder FOLDER] [arguments of fit]``."""
    parser = argparse.ArgumentParser("lightning-unlearn demo", description=_ABOUT, allow_abbrev=False)
    parser.add_argument("--folder", default="runs/quickstart", help="for the report and the logs (runs/quickstart)")
    chosen, further = parser.parse_known_args(arguments)
    folder = writable_folder(chosen.folder)  # fail now, not after the teaching
    into = [f"--report.folder={folder}", f"--trainer.logger.init_args.save_dir={folder}"]
    sys.stdout.write("A tiny model is taught, forgets and is attacked: about four minutes on two CPU cores.\n")
    quiet_fit("--config", "bundled:quickstart", *into, *further)
    sys.stdout.write(f"\nOpen {(folder / 'report.html').resolve()}\n")
