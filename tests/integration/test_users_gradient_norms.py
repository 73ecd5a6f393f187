"""Where the user's own gradient norms are taken, relative to the merge."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from _modules import SomebodysModule, loader, quiet
from lightning.pytorch.utilities import grad_norm
from torch.testing import assert_close

from lightning_unlearn import GradientAscent, Unlearn


def norm_of(module: Any) -> float:
    return float(grad_norm(module, norm_type=2)["grad_2.0_norm_total"])


class LogsNorms(SomebodysModule):
    """As Lightning's documentation does it, and where else people do it."""

    def __init__(self) -> None:
        super().__init__()
        self.norms: dict[str, list[float]] = {"after_backward": [], "before_step": [], "clipping": []}

    def on_after_backward(self) -> None:
        self.norms["after_backward"].append(norm_of(self))

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.norms["before_step"].append(norm_of(self))

    def configure_gradient_clipping(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        self.norms["clipping"].append(norm_of(self))


class Looks(pl.Callback):
    def __init__(self) -> None:
        self.norms: list[float] = []

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
        self.norms.append(norm_of(module))


def fit(**kwargs: Any) -> tuple[dict[str, list[float]], float]:
    """Norms in the one step of a fit, by hook, and what `Unlearn` says is that of the retain gradient."""
    module, before, after = LogsNorms(), Looks(), Looks()
    unlearn = Unlearn(GradientAscent(), weight=3.0, forget=loader(seed=2), **kwargs)
    trainer = quiet(callbacks=[before, unlearn, after], max_steps=1)
    trainer.fit(module, loader(seed=1))
    norms = {**module.norms, "callback before": before.norms, "callback after": after.norms}
    return norms, float(trainer.callback_metrics["unlearn/retain_norm"])


def test_merged_after_backward_and_before_the_module_is_asked() -> None:
    norms, retain = fit()
    merged = norms["before_step"][0]
    assert abs(merged - retain) > 0.01
    expected = {
        "after_backward": retain,
        "callback before": retain,
        "callback after": merged,
        "before_step": merged,
        "clipping": merged,
    }
    assert {hook: found for hook, (found,) in norms.items()} == pytest.approx(expected, rel=1e-5)


def test_with_an_optimizer_of_its_own_all_see_the_retain_gradient() -> None:
    norms, retain = fit(optimizer=lambda params: torch.optim.SGD(params, lr=0.1))
    for (found,) in norms.values():
        assert_close(found, retain, rtol=1e-5, atol=0)
