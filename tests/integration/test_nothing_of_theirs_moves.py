"""A fit in which our callbacks are at work, with a forget weight that changes nothing, is the fit without them."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
from _fingerprints import Log, differences, fingerprint
from _modules import quiet
from _shapes import SHAPES, Shape

import lightning_unlearn
from lightning_unlearn import GradientAscent, Quantize, RecoveryCheck, Relearn, StepGuard, Unlearn
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.guards import Monitor

TINY = 1e-300
"""Times any float32 gradient this is zero: 1e-30 would not vanish beside a gradient that is zero itself, as Adam would
step along it all the same."""

WITH_LOGITS = {
    "classifier",
    "BatchNorm and dropout",
    "embedding as forward",
    "softmax in forward",
    "label smoothing",
    "mixup",
    "distillation",
    "metrics and counters",
    "causal language model",
}
"""Shapes that have a readout of their own. The others are forgotten by the user's own loss."""

pytestmark = [
    pytest.mark.filterwarnings("ignore:Found . module.s. in eval mode"),  # Lightning, of a frozen teacher
    pytest.mark.filterwarnings("ignore:Attack `.*` failed"),  # not every shape has layers to attack
]
every_shape = pytest.mark.parametrize("name", SHAPES)


def fit(shape: Shape, callbacks: list[pl.Callback], **kwargs: Any) -> dict[str, Any]:
    pl.seed_everything(3, verbose=False)
    module = shape.module()
    trainer = quiet(max_epochs=2, logger=Log(), callbacks=callbacks, **kwargs)
    trainer.fit(module, shape.retain(shuffle=True))
    return fingerprint(trainer, module)


class TrainsBesides(pl.Callback):
    """Runs the user's ``training_step`` on other data through the engine, forward and backward, before each step."""

    def __init__(self, shape: Shape) -> None:
        self.batches = list(shape.forget())
        self.rows: list[Any] = []

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
        def loss(batch: Any) -> Any:
            out = module.training_step(batch, 0)
            return out["loss"] if isinstance(out, dict) else out

        engine = GradientEngine(module, trainer)
        params = [p for p in module.parameters() if p.requires_grad]
        batches = [engine.to_device(batch) for batch in self.batches]
        row, losses = engine.row(loss, batches, params)
        engine.backward(loss, batches[0])
        self.rows.append((row, losses))


@every_shape
def test_passes_through_the_training_step_move_nothing(name: str) -> None:
    besides = TrainsBesides(SHAPES[name])
    assert differences(fit(SHAPES[name], [besides]), fit(SHAPES[name], [])) == []
    assert all(any(t is not None and t.any() for t in row) for row, _ in besides.rows)


def at_work(shape: Shape, weight: float = TINY) -> list[pl.Callback]:
    """Our callbacks as one would use them, but for the weight."""
    return [
        Unlearn(GradientAscent(), weight=weight, forget=shape.forget(shuffle=True)),
        StepGuard(Monitor()),
        RecoveryCheck({"int4": Quantize(bits=4), "relearn": Relearn(steps=2)}, every_n_steps=3),
    ]


@every_shape
@pytest.mark.parametrize(
    "kwargs",
    [{}, pytest.param({"accumulate_grad_batches": 2, "gradient_clip_val": 0.1}, marks=pytest.mark.slow)],
    ids=["plain", "accumulated and clipped"],
)
def test_with_a_weight_that_vanishes_a_fit_is_the_plain_fit(name: str, kwargs: dict[str, Any]) -> None:
    if name not in WITH_LOGITS and not hasattr(lightning_unlearn.readouts, "TrainingStepReadout"):
        pytest.skip("no readout runs this shape")
    assert differences(fit(SHAPES[name], at_work(SHAPES[name]), **kwargs), fit(SHAPES[name], [], **kwargs)) == []


@pytest.mark.parametrize("name", ["BatchNorm and dropout", "metrics and counters"])
def test_a_weight_of_1e_30_vanishes_beside_any_gradient_that_is_not_zero(name: str) -> None:
    assert differences(fit(SHAPES[name], at_work(SHAPES[name], weight=1e-30)), fit(SHAPES[name], [])) == []
