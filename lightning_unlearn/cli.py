"""The command line: Lightning's own, with unlearning, checks and a report beside it."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from typing_extensions import override

from lightning_unlearn.callbacks import RecoveryCheck, Teach, Unlearn, WriteReport

_PARTS: dict[str, tuple[type[pl.Callback], str]] = {
    "teach": (Teach, "Teach what is to be forgotten first, for demos and benchmarks. Arguments of `Teach`."),
    "unlearn": (Unlearn, "What forgetting minimises, and how it is merged with what is retained. Arguments of `Unlearn`."),
    "recovery": (RecoveryCheck, "Which attacks run when, and what is measured. Arguments of `RecoveryCheck`."),
    "report": (WriteReport, "Where the report goes. Arguments of `WriteReport`."),
}


class UnlearnCLI(LightningCLI):
    """LightningCLI with ``teach``, ``unlearn``, ``recovery`` and ``report`` beside ``model``, ``data`` and ``trainer``.

    Any LightningModule and datamodule go under ``model`` and ``data`` by ``class_path``; so does a bare network, in
    :class:`UnlearningModule`. Each of the four parts may be left out.
    """

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the four parts."""
        for name, (cls, text) in _PARTS.items():
            parser.add_argument(f"--{name}", type=cls | None, default=None, help=text)

    @override
    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Put the parts among the callbacks, in the order they need: teach, unlearn, the user's own, recovery, report."""
        parts = {name: self._get(self.config_init, name) for name in _PARTS}
        own = self._get(self.config_init, "trainer", default={}).get("callbacks") or []
        own = own if isinstance(own, list) else [own]
        callbacks = [parts["teach"], parts["unlearn"], *own, parts["recovery"], parts["report"]]
        report = parts["report"]
        if report is not None:
            report.config = self._parser(self.subcommand).dump(self._get_config(), skip_none=True)
        return super().instantiate_trainer(callbacks=[c for c in callbacks if c is not None], **kwargs)

    def _get_config(self) -> Any:
        return self.config[str(self.subcommand)] if self.subcommand is not None else self.config


class _SaveConfig(SaveConfigCallback):
    """Write the whole configuration beside the report too: running it again is the reproduction."""

    @override
    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, WriteReport):
                path = Path(callback.folder)
                path.mkdir(parents=True, exist_ok=True)
                self.parser.save(self.config, path / "config.yaml", skip_none=False, overwrite=True, multifile=False)


def main(args: ArgsType = None) -> UnlearnCLI:
    """Run the command line.

    Args:
        args: Instead of the process's own arguments.
    """
    if os.getcwd() not in sys.path:  # a console script does not see the user's own modules otherwise
        sys.path.insert(0, os.getcwd())
    return UnlearnCLI(
        pl.LightningModule,
        pl.LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_callback=_SaveConfig,
        save_config_kwargs={"overwrite": True},
        seed_everything_default=0,
        parser_kwargs={"description": "Make a model forget, and prove it."},
        args=args,
    )


def script() -> None:
    """What ``lightning-unlearn`` runs: :func:`main`, with our own errors as one message instead of a traceback."""
    try:
        main()
    except (ValueError, NotImplementedError, OSError, FloatingPointError, KeyError) as error:
        raised_in = traceback.extract_tb(error.__traceback__)[-1].filename
        if os.environ.get("LIGHTNING_UNLEARN_TRACEBACK") or Path(__file__).parent not in Path(raised_in).parents:
            raise
        message = error.args[0] if error.args else error
        sys.exit(f"{type(error).__name__}: {message}\n(LIGHTNING_UNLEARN_TRACEBACK=1 shows where this was raised.)")
