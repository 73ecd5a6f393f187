"""Under `Noise` the forget gradient is, over many draws, the mean of the gradients at the drawn weights."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from _modules import quiet
from _vantage import KeepsRows
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.data import DataLoader

from lightning_unlearn import GradientAscent, Noise, Unlearn
from lightning_unlearn.readouts import TrainingStepReadout

EXAMPLE = torch.tensor([[1.0, -2.0, 0.5]])
START = torch.tensor([0.6, -0.3, 0.9])


class Powers(pl.LightningModule):
    r"""The loss is a power of :math:`w \cdot x`. It never moves, so that every draw is at the same weights."""

    def __init__(self, power: int) -> None:
        super().__init__()
        self.power = power
        self.weight = nn.Parameter(START.clone())

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return ((batch @ self.weight) ** self.power).mean() / self.power

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def expected(power: int, sigma: float) -> Tensor:
    r"""Of :math:`-u^p / p` with :math:`u \sim N(w \cdot x, \tau^2)`: minus the mean of :math:`u^{p-1} x`."""
    u = (EXAMPLE @ START).squeeze()
    variance = sigma**2 * START.square().mean() * EXAMPLE.square().sum()
    return -{2: u, 4: u**3 + 3 * u * variance}[power] * EXAMPLE[0]


@pytest.mark.slow
@pytest.mark.parametrize("power", [2, 4])
def test_its_mean_over_draws_is_the_gradient_of_the_smoothed_loss(power: int) -> None:
    """Of a quadratic loss it is the plain gradient; of a quartic one it is not."""
    sigma, draws, kept = 0.7, 300, KeepsRows()
    forget, retain = (DataLoader(rows, batch_size=1) for rows in (EXAMPLE, 2 * EXAMPLE.repeat(draws, 1)))  # type: ignore[arg-type]
    unlearn = Unlearn(
        GradientAscent(), TrainingStepReadout(), forget=forget, under={"noise": Noise(sigma)}, transforms=[kept]
    )
    module = Powers(power)
    quiet(callbacks=[unlearn]).fit(module, retain)
    assert torch.equal(module.weight, START)

    rows = torch.stack([row[module.weight] for row in kept.rows])
    there = 2 * rows - expected(power, 0.0)  # half of a row is taken without noise
    error = there.std(0) / draws**0.5
    assert len(rows.unique(dim=0)) == draws  # each step draws anew
    assert_close(there.mean(0), expected(power, sigma), rtol=0, atol=4 * float(error.max()))
    if power == 4:
        assert ((expected(power, sigma) - expected(power, 0.0)).abs() > 5 * error).all()
