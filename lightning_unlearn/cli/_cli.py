from __future__ import annotations

import warnings
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.trainer.states import TrainerFn
from typing_extensions import override

from lightning_unlearn.callbacks import FinetuneFirst, RecoveryCheck, WriteReport
from lightning_unlearn.callbacks._folders import writable_folder
from lightning_unlearn.cli._hyperparameters import OwnHyperparameters
from lightning_unlearn.forgetting import Unlearn

_PARTS: dict[str, type[pl.Callback]] = {
    "teach": FinetuneFirst,
    "unlearn": Unlearn,
    "recovery": RecoveryCheck,
    "report": WriteReport,
}
_TITLES = {
    "model": "The network, in a LightningModule",
    "data": "What must stay and what must go, in a LightningDataModule",
    "teach": "Teach first what is to be forgotten, for demos and benchmarks",
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
    """LightningCLI with ``teach``, ``unlearn``, ``recovery`` and ``report`` beside ``model``, ``data`` and ``trainer``.

    Any LightningModule and datamodule go under ``model`` and ``data`` by ``class_path``; so does a bare network, in
    :class:`UnlearningModule`. Each of the four parts may be left out, and takes its arguments with or without
    ``class_path``.

    Two habits of LightningCLI are dropped. It gives the hyper-parameters of ``model`` and ``data`` to whatever is nested in
    them too; here everyone gets their own. And it lets the hyper-parameters in a checkpoint overrule the configuration;
    here they do not, since the checkpoint may come from another class around the same weights.
    """

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
        # Ours come first: the trainer has two hundred lines to itself.
        parser._action_groups.remove(parser.groups["trainer"])
        parser._action_groups.append(parser.groups["trainer"])

    @override
    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Put the parts among the callbacks, in the order they need: teach, unlearn, the user's own, recovery, report."""
        parts = {name: self._get(self.config_init, name) for name in _PARTS}
        own = self._get(self.config_init, "trainer", default={}).get("callbacks") or []
        own = own if isinstance(own, list) else [own]
        callbacks = [parts["teach"], parts["unlearn"], *own, parts["recovery"], parts["report"]]
        return super().instantiate_trainer(callbacks=[c for c in callbacks if c is not None], **kwargs)

    @override
    def _add_subcommands(self, parser: LightningArgumentParser, **kwargs: Any) -> None:
        for name, text in _SUBCOMMANDS.items():
            # All of the arguments would be a page of usage in front of every message.
            usage = f"{parser.prog} {name} [--config FILE] [--KEY VALUE ...]"
            kwargs.setdefault(name, {}).update(description=text, usage=usage)
        super()._add_subcommands(parser, **kwargs)
        for choice in parser._subcommands_action._choices_actions:
            choice.help = _SUBCOMMANDS[choice.dest]

    @override
    def _add_instantiators(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Lightning adds its own in the same way
            for key, base in (("model", pl.LightningModule), ("data", pl.LightningDataModule)):
                self.parser.add_instantiator(OwnHyperparameters(cli=self, key=key), base, subclasses=True)

    @override
    def _parse_ckpt_path(self) -> None:
        """The configuration says what the module is."""


class SaveConfig(SaveConfigCallback):
    """Write the whole configuration beside the report too: running it again is the reproduction."""

    @override
    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """``config.yaml`` is that of the fit; checks that run alone do not overwrite it."""
        name = "config.yaml" if stage == TrainerFn.FITTING else f"config-{TrainerFn(stage).value}.yaml"
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, WriteReport):
                callback.config = self.parser.dump(self.config, skip_none=True)
                path = writable_folder(callback.folder) / name
                self.parser.save(self.config, path, skip_none=False, overwrite=True, multifile=False)
