from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn
from typing_extensions import override

from lightning_unlearn.data import ForgetRetainData, LoaderSettings, Order, QuestionAnswerData, RandomOrder
from lightning_unlearn.forgetting import Unlearn
from lightning_unlearn.functional.settings import check_kind, check_whole
from lightning_unlearn.module import UnlearningModule
from lightning_unlearn.objectives import CrossEntropy, Objective
from lightning_unlearn.projectors import Projector
from lightning_unlearn.requests._request_fit import Job, RequestFit

QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "devices": 1,
}


class TrainerFit(RequestFit):
    """A fit of :class:`UnlearningModule` with :class:`Unlearn`, in a trainer of its own for each request.

    Args:
        network: Builds the network, the same each time, such as ``lambda: PretrainedCausalLM(path, lora=LoRA())``.
        objective: What forgetting minimises; each fit has a copy.
        optimizer: From parameters to an optimizer. Defaults to AdamW with a rate of 1e-4 and no decay.
        scheduler: From an optimizer to a scheduler, stepped after each step.
        epochs: Passes over the rows of a request.
        batch_size: Rows per batch.
        retain_batch_size: Rows of retain data beside each batch, ``batch_size`` by default. A request is forgotten in few
            steps: what must stay is shown often enough only if each shows much of it.
        retain: What training on retain data minimises; each fit has a copy. Defaults to :class:`CrossEntropy`.
        projector: As in :class:`Unlearn`.
        order: Which retain rows go with which forget rows.
        callbacks: Further callbacks for a request, such as a :class:`StepGuard`, made anew for each.
        trainer: Further arguments of the trainer, such as ``{"gradient_clip_val": 1.0}``.

    Raises:
        NotImplementedError: When it fits, if the trainer has several processes.

    Example:
        >>> from lightning_unlearn import NPO, TinyCausalLM
        >>> fit = TrainerFit(lambda: TinyCausalLM(hidden_size=32), NPO(beta=0.1), epochs=2)
        >>> fit.settings()["objective"], fit.settings()["epochs"]
        ('NPO(beta=0.1)', 2)
    """

    def __init__(
        self,
        network: Callable[[], nn.Module],
        objective: Objective,
        *,
        optimizer: OptimizerCallable | None = None,
        scheduler: LRSchedulerCallable | None = None,
        epochs: int = 3,
        batch_size: int = 8,
        retain_batch_size: int | None = None,
        retain: Objective | None = None,
        projector: Projector | None = None,
        order: Order | None = None,
        callbacks: Callable[[Job], list[pl.Callback]] | None = None,
        trainer: Mapping[str, Any] | None = None,
    ) -> None:
        check_kind("objective", objective, Objective, example="NPO(beta=0.1)")
        check_whole("epochs", epochs)
        check_whole("batch_size", batch_size)
        self.build, self.objective, self.projector = network, objective, projector
        self.optimizer = _adamw if optimizer is None else optimizer
        self.scheduler = scheduler
        self.epochs, self.batch_size = epochs, batch_size
        self.retain_batch_size = batch_size if retain_batch_size is None else retain_batch_size
        check_whole("retain_batch_size", self.retain_batch_size)
        self.retain = CrossEntropy() if retain is None else retain
        self.order = RandomOrder() if order is None else order
        self.callbacks = callbacks
        self.trainer = dict(trainer or {})

    @override
    def network(self) -> nn.Module:
        return self.build()

    @override
    def forget_(self, job: Job) -> dict[str, Any]:
        return self.fit_(job, self.objective, self.retain)

    def fit_(self, job: Job, objective: Objective, retain: Objective) -> dict[str, Any]:
        """Fit ``job.network``. Returns the number of steps."""
        pl.seed_everything(job.seed, verbose=False)
        beside, settings = (
            LoaderSettings(batch_size=size, seed=job.seed) for size in (self.retain_batch_size, self.batch_size)
        )
        data = ForgetRetainData(
            retain=QuestionAnswerData(job.retain, job.encoding, beside),
            forget=QuestionAnswerData(job.request.records, job.encoding, settings),
            order=deepcopy(self.order),
            seed=job.seed,
        )
        module = UnlearningModule(
            job.network, retain=deepcopy(retain), optimizer=self.optimizer, scheduler=self.scheduler_for(job)
        )
        unlearn = Unlearn(deepcopy(objective), projector=deepcopy(self.projector), seed=job.seed)
        callbacks = [unlearn, *([] if self.callbacks is None else self.callbacks(job))]
        trainer = pl.Trainer(**{"max_epochs": self.epochs, **QUIET, **self.trainer}, callbacks=callbacks)
        refuse_several_processes(trainer)
        trainer.fit(module, datamodule=data)
        job.network.to("cpu")
        return {"steps": trainer.global_step}

    def scheduler_for(self, job: Job) -> LRSchedulerCallable | None:
        """The scheduler of one request."""
        return self.scheduler

    def steps(self, job: Job) -> int:
        """How many steps the fit of a request takes."""
        return self.epochs * math.ceil(len(job.request.records.questions()) / self.batch_size)

    @override
    def settings(self) -> dict[str, Any]:
        return {
            "fit": type(self).__name__,
            "objective": repr(self.objective),
            "retain": repr(self.retain),
            "projector": repr(self.projector),
            "optimizer": _named(self.optimizer),
            "scheduler": _named(self.scheduler),
            "order": type(self.order).__name__,
            "callbacks": _named(self.callbacks),
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "retain_batch_size": self.retain_batch_size,
            "trainer": {name: repr(value) for name, value in self.trainer.items()},
        }


def refuse_several_processes(trainer: pl.Trainer) -> None:
    """Refuse a trainer of several processes: each would write the same ledger."""
    if trainer.world_size != 1:
        raise NotImplementedError(
            f"Requests should be carried out by one process. Found a trainer of {trainer.world_size}. Use `devices=1`."
        )


def _adamw(params: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(params, lr=1e-4, weight_decay=0.0)


def _named(part: Any) -> str | None:
    """A function by its name: its address would be another in each process."""
    return None if part is None else getattr(part, "__qualname__", type(part).__name__)
