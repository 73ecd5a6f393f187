"""What a checkpoint carries does not grow with the number of steps."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from _modules import SomebodysModule, loader, quiet
from lightning.pytorch.callbacks import Callback

from lightning_unlearn import NPO, ForgetRetainData, RecoveryCheck, StepGuard, Unlearn, WriteReport
from lightning_unlearn.guards.directions import History
from lightning_unlearn.report import add_point


class Weighed(Callback):
    """Bytes of the checkpoint after some of the steps."""

    def __init__(self) -> None:
        self.sizes: dict[int, int] = {}

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step % 40 == 0:
            torch.save(trainer._checkpoint_connector.dump_checkpoint(weights_only=False), file := io.BytesIO())
            self.sizes[trainer.global_step] = file.tell()


@pytest.mark.filterwarnings("ignore:The corrected step should break no rule")  # a large rate, on little data
def test_all_callbacks_together(monkeypatch: pytest.MonkeyPatch) -> None:
    def add_to_short(curve: list[dict[str, float]], point: dict[str, float]) -> None:
        add_point(curve, point, most=20)

    monkeypatch.setattr("lightning_unlearn.callbacks._write_report.add_point", add_to_short)
    weighed = Weighed()
    callbacks = [
        Unlearn(NPO(), weight=1e-2),
        StepGuard(directions=History(length=3)),
        RecoveryCheck(every_n_epochs=0),
        WriteReport("report"),
        weighed,
    ]
    data = ForgetRetainData(retain=loader(1), forget=loader(2))
    quiet(callbacks=callbacks, max_steps=160, max_epochs=-1).fit(SomebodysModule("sgd"), datamodule=data)
    assert list(weighed.sizes) == [40, 80, 120, 160]
    # Not to the byte: larger counters take more digits, and the curve has between half and all of its points.
    assert max(weighed.sizes.values()) - min(weighed.sizes.values()) < 20 * 300


def test_a_curve_that_is_not_thinned_would_be_noticed() -> None:
    curve: list[dict[str, float]] = []
    names = ("forget", "retain", "cosine", "forget_norm", "retain_norm", "realised")
    sizes = []
    for step in range(1, 161):
        curve.append({"step": step, **dict.fromkeys(names, step / 7)})
        torch.save(curve, file := io.BytesIO())
        sizes.append(file.tell())
    assert sizes[159] - sizes[39] > 20 * 300
