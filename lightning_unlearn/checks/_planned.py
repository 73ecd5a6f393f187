"""Which looks a fit will take, what each of them costs, and what the last one found."""

from __future__ import annotations

import math
from collections.abc import Iterable

import lightning.pytorch as pl

from lightning_unlearn.checks._looks import Look
from lightning_unlearn.checks._recovery_check import RecoveryCheck
from lightning_unlearn.checks._worst import WORST
from lightning_unlearn.observation import Cost


def steps_per_epoch(trainer: pl.Trainer) -> float:
    """Optimizer steps of an epoch; infinite if nobody knows where it ends."""
    batches: float = trainer.num_training_batches
    return batches if math.isinf(batches) else math.ceil(batches / trainer.accumulate_grad_batches)


def last_step(trainer: pl.Trainer) -> int | None:
    """After how many optimizer steps a fit is over; ``None`` if only time will tell."""
    epochs = trainer.max_epochs
    by_epochs = math.inf if epochs is None or epochs < 0 else epochs * steps_per_epoch(trainer)
    total = min(by_epochs, math.inf if trainer.max_steps < 0 else trainer.max_steps)
    return None if math.isinf(total) else int(total)


def planned_looks(check: RecoveryCheck, per_epoch: float, total: int) -> set[int]:
    """After which optimizer steps ``check`` looks, the last one of the fit included.

    Looks that others ask for, because they monitor a value, are not among them.

    Example:
        >>> sorted(planned_looks(RecoveryCheck(every_n_epochs=2, every_n_steps=0), per_epoch=3, total=15))
        [6, 12, 15]
    """
    looks = {total}
    if check.every_n_steps:
        looks |= set(range(check.every_n_steps, total, check.every_n_steps))
    if check.every_n_epochs and not math.isinf(per_epoch):
        every = check.every_n_epochs * int(per_epoch)
        looks |= set(range(every, total, every))
    return looks


def seconds_of_a_look(costs: Iterable[Cost]) -> float:
    """Of the fit's own model, without and under each attack. The original's looks are as long.

    Example:
        >>> seconds_of_a_look([Cost("none", "original", seconds=1.0), Cost("int4", "unlearned", 2, 6.0)])
        4.0
    """
    looks: dict[str, int] = {}
    seconds: dict[str, float] = {}
    for cost in costs:
        if cost.subject != "control":
            looks[cost.attack] = looks.get(cost.attack, 0) + cost.looks
            seconds[cost.attack] = seconds.get(cost.attack, 0.0) + cost.seconds
    return sum(seconds[attack] / looks[attack] for attack in looks)


def seconds_at_start(costs: Iterable[Cost]) -> float:
    """Of the looks that are made once in a run: at the original and at the control."""
    return sum(cost.seconds for cost in costs if cost.subject != "unlearned")


def shown_worst(looks: Iterable[Look]) -> float | None:
    """``recovery/worst`` of the first of ``looks`` that has a number; nothing of looks at the original.

    Example:
        >>> shown_worst([Look(0, [], {"recovery/worst": 1.0}), Look(7, [], {"recovery/worst": 0.25})])
        0.25
    """
    found = [look.values[WORST] for look in looks if look.step > 0 and WORST in look.values]
    return next((value for value in found if not math.isnan(value)), None)
