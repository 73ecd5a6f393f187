from __future__ import annotations

import warnings
from importlib.metadata import version
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.trainer.states import TrainerFn
from typing_extensions import override

from lightning_unlearn.callbacks import FinetuneFirst, RecoveryCheck, WriteReport
from lightning_unlearn.cli._config_file import ConfigFile
from lightning_unlearn.cli._hyperparameters import OwnHyperparameters
from lightning_unlearn.forgetting import Unlearn
from lightning_unlearn.runtime import writable_folder, written_whole

_PARTS: dict[str, type[pl.Callback]] = {
    "finetune_first": FinetuneFirst,
    "unlearn": Unlearn,
    "recovery": RecoveryCheck,
    "report": WriteReport,
}
_TITLES = {
    "model": "The network, in a LightningModule",
    "data": "What must stay and what must go, in a LightningDataModule",
    "finetune_first": "Teach the network what it is to forget, before the fit: for demos and benchmarks",
    "unlearn": "What forgetting minimises, and how it is merged with what is retained",
    "recovery": "Which attacks run when, and what is measured",
    "report": "Where the report goes",
    "trainer": "The trainer",
    "optimizer": "An optimizer, instead of the module's own",
    "lr_scheduler": "A learning-rate scheduler, to go with --optimizer",
}
_SUBCOMMANDS = {
    "fit": "Unlearn: train on what must stay, merge in what must go, attack, and write the report.",
    "validate": "Run the checks alone, on the model or on --ckpt_path, with the validation loop; write the report.",
    "test": "Run the checks alone, on the model or on --ckpt_path, with the test loop; write the report.",
    "predict": "Run the module's own predictions.",
}


class UnlearnCLI(LightningCLI):
    """LightningCLI with the parts ``finetune_first``, ``unlearn``, ``recovery`` and ``report``.

    Any LightningModule and datamodule go under ``model`` and ``data`` by ``class_path``; so does a bare network, in
    :class:`UnlearningModule`. Each of the four parts may be left out, and takes its arguments with or without
    ``class_path``. ``--config`` takes a file, which may name a ``base``, or ``bundled:NAME``: see
    :func:`~lightning_unlearn.cli.read_config`.

    It differs from LightningCLI in two ways:

    - Every module and datamodule has its own hyper-parameters. LightningCLI gives those of ``model`` and ``data`` to the
      objects nested in them, too.
    - The configuration wins over the hyper-parameters in a checkpoint, because the checkpoint may come from another class
      around the same weights.
    """

    @override
    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """As LightningCLI's, with our own ``--config``."""
        kwargs.setdefault("dump_header", [f"lightning.pytorch=={version('lightning')}"])
        parser: LightningArgumentParser = self.parser_class(**kwargs)
        text = (
            "A configuration: a file, or bundled:NAME (`lightning-unlearn configs` lists them). Later ones win; a key twice "
            "in one is refused."
        )
        parser.add_argument("-c", "--config", action=ConfigFile, help=text)
        return parser

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the four parts, and say what each group of arguments is."""
        for name, cls in _PARTS.items():
            text = f"Arguments of {cls.__name__}: a file, init arguments, or class_path and init_args."
            parser.add_subclass_arguments(cls, name, help=text)
        parser.add_optimizer_args()
        parser.add_lr_scheduler_args()
        for name, title in _TITLES.items():
            parser.groups[name].title = title
        # The trainer's group goes last in the help: its arguments alone are two hundred lines.
        parser._action_groups.remove(parser.groups["trainer"])
        parser._action_groups.append(parser.groups["trainer"])

    @override
    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Order the callbacks: `finetune_first`, `unlearn`, the user's own, `recovery`, `report`.

        Lightning calls them in this order. The network is taught first, and measured after everything that changes it.
        """
        parts = {name: self._get(self.config_init, name) for name in _PARTS}
        own = self._get(self.config_init, "trainer", default={}).get("callbacks") or []
        own = own if isinstance(own, list) else [own]
        callbacks = [parts["finetune_first"], parts["unlearn"], *own, parts["recovery"], parts["report"]]
        return super().instantiate_trainer(callbacks=[c for c in callbacks if c is not None], **kwargs)

    @override
    def _add_subcommands(self, parser: LightningArgumentParser, **kwargs: Any) -> None:
        for name, text in _SUBCOMMANDS.items():
            # The default usage lists every argument: a page in front of each error message.
            usage = f"{parser.prog} {name} [--config FILE|bundled:NAME] [--KEY VALUE ...]"
            kwargs.setdefault(name, {}).update(description=text, usage=usage)
        super()._add_subcommands(parser, **kwargs)
        for choice in parser._subcommands_action._choices_actions:
            choice.help = _SUBCOMMANDS[choice.dest]

    @override
    def _add_instantiators(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of `add_instantiator`, which Lightning uses, too
            for key, base in (("model", pl.LightningModule), ("data", pl.LightningDataModule)):
                self.parser.add_instantiator(OwnHyperparameters(cli=self, key=key), base, subclasses=True)

    @override
    def _parse_ckpt_path(self) -> None:
        """Do not read hyper-parameters from the checkpoint: the configuration alone says what the module is."""


class SaveConfig(SaveConfigCallback):
    """Write the merged configuration beside the report: running it again reproduces the report."""

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Beside the logs as well, if there are any: without a logger, their folder is the one a user works in."""
        self.save_to_log_dir = self.save_to_log_dir and bool(trainer.loggers)
        super().setup(trainer, pl_module, stage)

    @override
    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """The fit writes ``config.yaml``; checks that run alone write ``config-validate.yaml`` or ``config-test.yaml``."""
        name = "config.yaml" if stage == TrainerFn.FITTING else f"config-{TrainerFn(stage).value}.yaml"
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, WriteReport):
                callback.config = self.parser.dump(self.config, skip_unset=True)
                with written_whole(writable_folder(callback.folder) / name) as new:
                    self.parser.save(self.config, new, skip_unset=False, overwrite=True, multifile=False)
