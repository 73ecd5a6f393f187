from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

import lightning.pytorch as pl
import yaml
from torch import nn
from typing_extensions import override

from lightning_unlearn.callbacks import FinetuneFirst, WriteReport
from lightning_unlearn.cli._cli import UnlearnCLI
from lightning_unlearn.cli._main import main
from lightning_unlearn.data import Encoding, ForgetRetainData, QuestionAnswerData, Records
from lightning_unlearn.readouts import choose_readout
from lightning_unlearn.requests import Job, Parsed, Request, RequestFit, refuse_several_processes

_PLACES = ("config", "report", "trainer.default_root_dir", "trainer.logger")
"""Settings that say where something is, and decide nothing."""


class ConfiguredFit(RequestFit):
    """The fit that a configuration says, with other rows to forget, and without those that a request names.

    Model, trainer, callbacks, checks and report are those of the configuration, built anew for each request. Its
    ``finetune_first`` teaches once, before the first request, and then all that the requests name.

    Args:
        arguments: As of ``lightning-unlearn fit``.

    Raises:
        ValueError: If the data are not questions and answers that must stay and go.
        NotImplementedError: If the trainer has several devices.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self.arguments = list(arguments)
        self._built = self._build()
        data = self._built.datamodule
        parts = [getattr(getattr(data, part, None), "source", None) for part in ("retain", "forget")]
        if not isinstance(data, ForgetRetainData) or not all(isinstance(part, QuestionAnswerData) for part in parts):
            raise ValueError(
                "`data` of a configuration for requests should be `ForgetRetainData` of two `QuestionAnswerData`, or "
                f"`TOFUData`. Found `{type(data).__name__}` of `{type(parts[0]).__name__}` and `{type(parts[1]).__name__}`."
            )
        self.data: ForgetRetainData = data
        self._retain, self._forget = (_questions(part) for part in parts)
        refuse_several_processes(self._built.trainer)

    @property
    def retain(self) -> Records:
        """What must stay, as configured."""
        return self._retain.records

    @property
    def forget(self) -> Records:
        """What must go, as configured: not used, but for how its fields are called."""
        return self._forget.records

    @property
    def encoding(self) -> Encoding:
        """How rows become tokens."""
        return self._forget.encoding

    @override
    def network(self) -> nn.Module:
        self._built = self._build()
        return choose_readout(self._built.model).find_network(self._built.model)

    @override
    def teach_(self, network: nn.Module, requests: Sequence[Request], retain: Records) -> None:
        first = [c for c in _callbacks(self._built.trainer) if isinstance(c, FinetuneFirst)]
        if first:
            asked = [row for request in requests for row in request.records.questions()]
            teacher = pl.Trainer(
                accelerator=_accelerator(self._built.trainer),
                devices=1,
                precision=self._built.trainer.precision,
                max_steps=0,  # it teaches in `setup`
                callbacks=list(first),
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            teacher.fit(self._built.model, datamodule=self._with(retain, Parsed(asked)))
            network.to("cpu")

    @override
    def forget_(self, job: Job) -> dict[str, Any]:
        trainer: Any = self._built.trainer
        trainer.callbacks = [c for c in trainer.callbacks if not isinstance(c, FinetuneFirst)]
        for callback in trainer.callbacks:
            if isinstance(callback, WriteReport):
                callback.folder = str(job.folder / "report")
        # The seed of the request: the configuration's own was used up in building, the same each time.
        pl.seed_everything(job.seed, verbose=False)
        trainer.fit(self._built.model, datamodule=self._with(job.retain, job.request.records))
        job.network.to("cpu")
        return {"steps": trainer.global_step}

    @override
    def settings(self) -> Mapping[str, Any]:
        config = yaml.safe_load(self._built.parser.dump(self._built.config, skip_unset=True))
        for place in _PLACES:
            *above, last = place.split(".")
            part = config
            for name in above:
                part = part.get(name, {})
            part.pop(last, None)
        return {"fit": "configured", "configuration": config}

    def _build(self) -> UnlearnCLI:
        with warnings.catch_warnings():
            # Of the command line around, most of which is of this command.
            warnings.filterwarnings("ignore", "LightningCLI's args parameter", UserWarning)
            return main(self.arguments, run=False)

    def _with(self, retain: Records, forget: Records) -> ForgetRetainData:
        data = self.data
        probes = {name: opened.source for name, opened in data.probes.items() if name not in ("retain", "forget")}
        return ForgetRetainData(
            retain=_other(self._retain, retain),
            forget=_other(self._forget, forget),
            order=copy(data.order),
            seed=data.seed,
            probes=probes,
        )


def _questions(source: Any) -> QuestionAnswerData:
    assert isinstance(source, QuestionAnswerData)
    return source


def _other(data: QuestionAnswerData, records: Records) -> QuestionAnswerData:
    return QuestionAnswerData(records, data.encoding, data.loader)


def _callbacks(trainer: pl.Trainer) -> list[pl.Callback]:
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return callbacks


def _accelerator(trainer: pl.Trainer) -> str:
    return "cpu" if trainer.strategy.root_device.type == "cpu" else "gpu"
