"""A forget gradient that is exactly zero is said once, with its likely causes; a bound that was reached is no problem."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import pytest
import torch
from _modules import SomebodysModule, loader, quiet
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_unlearn import Bounded, ClassificationReadout, GradientAscent, Unlearn
from lightning_unlearn.forgetting._zero_gradient import ZeroGradient
from lightning_unlearn.objectives import LogitMarginFlattening, Objective

ZERO = "Found no non-zero entry in 3 steps in a row"


class OneLogit(SomebodysModule):
    """Softmax over one logit is 1, whatever the logit."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, :1]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.binary_cross_entropy_with_logits(self(batch[0])[:, 0], (batch[1] > 2).float())


def of_class_0() -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.randn(8, 8), torch.zeros(8, dtype=torch.long)), batch_size=4)


def fit(module: Any, objective: Objective, forget: Any = None, **kwargs: Any) -> list[str]:
    """Warnings of a fit of six steps."""
    settings = {name: kwargs.pop(name) for name in ("optimizer",) if name in kwargs}
    # Given: the default would step back to the module's own loss.
    readout = ClassificationReadout()
    unlearn = Unlearn(objective, readout, forget=loader(seed=2) if forget is None else forget, **settings)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        quiet(callbacks=[unlearn], **kwargs).fit(module, loader(seed=1))
    return [str(w.message) for w in caught if "forget gradient" in str(w.message)]


@pytest.mark.parametrize("kwargs", [{}, {"accumulate_grad_batches": 2}], ids=["in place", "by rows"])
def test_one_logit_is_said_once_by_name(kwargs: dict[str, Any]) -> None:
    (said,) = fit(OneLogit(), GradientAscent(), of_class_0(), max_epochs=2, **kwargs)
    assert ZERO in said
    assert "a network with one logit" in said


def test_with_an_optimizer_of_its_own_too() -> None:
    (said,) = fit(OneLogit(), GradientAscent(), of_class_0(), optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    assert ZERO in said


def test_it_needs_no_more_than_what_is_measured_to_begin_with() -> None:
    """Measured in step 0 only, by `log_every_n_steps`; a zero there has the next two measured."""
    assert len(fit(OneLogit(), GradientAscent(), of_class_0(), log_every_n_steps=50)) == 1


def test_a_bound_that_was_reached_is_no_problem(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert fit(SomebodysModule(), Bounded(GradientAscent(), bound=1e-3)) == []
    (said,) = [r.message for r in caplog.records if "has reached its bound" in r.message]
    assert "That is what it is for" in said


def test_a_bounded_objective_that_cannot_move_is_one() -> None:
    assert len(fit(OneLogit(), Bounded(GradientAscent(), bound=4.0), of_class_0())) == 1


def test_a_gradient_is_not_said_to_be_zero() -> None:
    assert fit(SomebodysModule(), GradientAscent()) == []


def test_a_single_batch_without_a_label_is_fine() -> None:
    labels = torch.tensor([-100] * 4 + [1] * 4)
    forget = DataLoader(TensorDataset(torch.randn(8, 8), labels), batch_size=4)
    assert fit(SomebodysModule(), GradientAscent(), forget) == []


def looked(norms: list[float], objective: Objective) -> ZeroGradient:
    looks = ZeroGradient(objective)
    for norm in norms:
        looks.saw({"forget": torch.tensor(norm), "forget_norm": torch.tensor(norm)})
    return looks


def test_an_objective_that_pushed_and_has_nothing_left_is_no_problem(caplog: pytest.LogCaptureFixture) -> None:
    """As a hinge of the user's own, once it has got where it wants to. A warning would be an error here."""
    with caplog.at_level(logging.INFO):
        looked([0.5, 0.0, 0.0, 0.0, 0.0], LogitMarginFlattening())
    (said,) = [r.message for r in caplog.records]
    assert said.startswith("`LogitMarginFlattening` has nothing left to ask for")


def test_one_that_never_pushed_is() -> None:
    with pytest.warns(UserWarning, match=ZERO):
        looked([0.0, 0.0, 0.0], LogitMarginFlattening())
