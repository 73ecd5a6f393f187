"""What projecting gradients protects, and what it does not: the docstrings' promise and their warning."""

from functools import partial

import pytest
import torch
from torch.nn import functional as F

from lightning_unlearn.projectors import HalfSpace, Orthogonal, PCGrad, SignRule

protecting = pytest.mark.parametrize("build", [Orthogonal, HalfSpace, SignRule, PCGrad])


def retain_loss_raised(projector, optimizer_class, steps=60):
    """In how many steps the applied change pointed uphill on the retain loss of the batch at hand."""
    torch.manual_seed(0)
    inputs, labels = torch.randn(64, 6).double(), torch.randint(0, 3, (64,))
    network = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3)).double()
    params = list(network.parameters())
    optimizer = optimizer_class(params)
    raised = 0
    for step in range(steps):
        forget, retain = torch.arange(8), 8 + torch.arange(16) + 16 * (step % 3)
        losses = [-F.cross_entropy(network(inputs[forget]), labels[forget]).clamp_max(8)]
        losses.append(F.cross_entropy(network(inputs[retain]), labels[retain]))
        gradients = [torch.autograd.grad(loss, params) for loss in losses]
        rows = torch.stack([torch.cat([g.flatten() for g in row]) for row in gradients])
        merged = (projector(rows @ rows.T) @ rows).split([p.numel() for p in params])
        for param, gradient in zip(params, merged, strict=True):
            param.grad = gradient.view_as(param)
        before = torch.cat([p.detach().flatten() for p in params])
        optimizer.step()
        change = torch.cat([p.detach().flatten() for p in params]) - before
        raised += float(F.cosine_similarity(change, rows[1], dim=0)) > 1e-9
    return raised


@protecting
def test_under_plain_sgd_no_step_points_uphill_on_the_retain_loss(build):
    assert retain_loss_raised(build(), partial(torch.optim.SGD, lr=0.1)) == 0


@protecting
@pytest.mark.parametrize(
    "optimizer_class",
    [partial(torch.optim.AdamW, lr=1e-2), partial(torch.optim.SGD, lr=0.1, momentum=0.9)],
    ids=["AdamW", "momentum"],
)
def test_under_other_optimizers_steps_do(build, optimizer_class):
    assert retain_loss_raised(build(), optimizer_class) > 3
