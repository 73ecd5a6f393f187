"""Thirty-four shapes of modules forget, and are measured, with nothing but a forget set: no readout is named."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from _modules import quiet
from _shapes import SHAPES, Shape

from lightning_unlearn import NPO, Bounded, ForgetRetainData, GradientAscent, RecoveryCheck, Relearn, Unlearn
from lightning_unlearn.engine import decided_readout
from lightning_unlearn.readouts import (
    ClassificationReadout,
    EncoderDecoderReadout,
    PackedCausalLMReadout,
    Readout,
    TrainingStepReadout,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training")

READ_BY_LOGITS: dict[str, type[Readout]] = {
    "classifier": ClassificationReadout,
    "BatchNorm and dropout": ClassificationReadout,
    "named inputs with a mask": ClassificationReadout,
    "mixup": ClassificationReadout,  # of an example alone it is the plain loss
    "metrics and counters": ClassificationReadout,
    "causal language model": PackedCausalLMReadout,
    "T5": EncoderDecoderReadout,
}
"""What is not read by its own loss."""

BY_BATCH = {
    "variational autoencoder",
    "diffusion",
    "contrastive",
    "momentum encoder and queue",
    "hidden state carried along",
    "graphs",
    "masked language model",
}
"""One likelihood for a batch. Of the masked language model, because examples weigh by their tokens."""

every = pytest.mark.parametrize("name", SHAPES)


def fit(shape: Shape, *callbacks: Any) -> Any:
    torch.manual_seed(0)
    trainer = quiet(callbacks=list(callbacks))
    trainer.fit(shape.module(), datamodule=ForgetRetainData(retain=shape.retain(), forget=shape.forget()))
    return trainer


@every
def test_the_readout_is_the_one_that_fits(name: str) -> None:
    found: list[Readout] = []

    class Look(Unlearn):
        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            super().on_train_end(trainer, pl_module)
            found.append(decided_readout(trainer, pl_module))

    trainer = fit(SHAPES[name], Look(Bounded(GradientAscent(), bound=50.0)))
    assert type(found[0]) is READ_BY_LOGITS.get(name, TrainingStepReadout)
    assert (found[0].why_not_cached is not None) == (name in BY_BATCH)
    assert math.isfinite(trainer.callback_metrics["unlearn/forget"])
    assert trainer.callback_metrics["unlearn/forget_norm"] > 0


@pytest.mark.slow
@every
def test_npo_starts_at_its_value_there_and_everything_is_measured(name: str) -> None:
    seen: list[float] = []

    class Look(RecoveryCheck):
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            super().on_train_batch_end(trainer, *args)
            seen.append(float(trainer.callback_metrics["unlearn/forget"]))

    check = Look({"relearn": Relearn(steps=2, mode="full")}, every_n_epochs=0)
    fit(SHAPES[name], Unlearn(NPO(beta=0.1)), check)
    # Else dropout is in the student alone. A queue has moved with the retain batch, before the first forget batch.
    is_at_the_original = not SHAPES[name].draws or name in ("variational autoencoder", "diffusion")
    if is_at_the_original and name != "momentum encoder and queue":
        assert seen[0] == pytest.approx(20 * math.log(2), rel=1e-4)
    metrics = {"loss"} if name not in READ_BY_LOGITS else {"probability", "token_nll", "specificity"}
    assert {o.metric for o in check.observations} == metrics
    assert {o.attack for o in check.observations} == {"none", "relearn"}
