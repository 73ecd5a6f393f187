from __future__ import annotations

import os
import sys

import lightning.pytorch as pl
from lightning.pytorch.cli import ArgsType

from lightning_unlearn.cli._cli import SaveConfig, UnlearnCLI
from lightning_unlearn.cli._parser import Parser
from lightning_unlearn_command import ABOUT


def main(args: ArgsType = None, *, run: bool = True) -> UnlearnCLI:
    """Run the command line.

    Args:
        args: Instead of the process's own arguments.
        run: Whether to run a subcommand, or, without one, only to build model, data and trainer.
    """
    # So that `class_path` finds the user's own modules: for a console script, Python puts the script's folder on the path,
    # not the current one.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    return UnlearnCLI(
        pl.LightningModule,
        pl.LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_callback=SaveConfig,
        save_config_kwargs={"overwrite": True},
        seed_everything_default=0,
        parser_class=Parser,
        parser_kwargs={"prog": "lightning-unlearn", "description": ABOUT},
        args=args,
        run=run,
    )
