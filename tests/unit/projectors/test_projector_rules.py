"""What each projector computes, against oracles that see the gradients."""

import numpy as np
import pytest
import torch
from _gramians import SAMPLERS, agreeing, conflicting, dependent, normal
from scipy.optimize import nnls
from torch.testing import assert_close
from torchjd.aggregation import PCGradWeighting

from lightning_unlearn.projectors import HalfSpace, Orthogonal, PCGrad, SignRule

every_sampler = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)


def merge(projector, rows):
    return projector(rows @ rows.T) @ rows


def left_of_the_forget_gradient(projector, rows):
    return merge(projector, rows) - rows[1:].sum(0)


@pytest.mark.parametrize("m", [2, 5, 9])
def test_orthogonal_is_the_projection_by_qr(m):
    rows = normal(m)
    basis, _ = torch.linalg.qr(rows[1:].T)

    assert_close(left_of_the_forget_gradient(Orthogonal(), rows), rows[0] - basis @ (basis.T @ rows[0]))


@pytest.mark.parametrize("sampler", [normal, conflicting, dependent])
@pytest.mark.parametrize("m", [2, 5, 9])
def test_half_space_is_the_projection_scipy_finds(sampler, m):
    rows = sampler(m)
    added, _ = nnls(rows[1:].T.numpy(), -rows[0].numpy(), maxiter=1000)

    assert_close(left_of_the_forget_gradient(HalfSpace(), rows), rows[0] + torch.from_numpy(added) @ rows[1:])


def test_half_space_takes_out_less_than_the_other_rules():
    rows = normal(6)
    taken_out = {
        type(projector): float((left_of_the_forget_gradient(projector, rows) - rows[0]).norm())
        for projector in (HalfSpace(), Orthogonal(), SignRule())
    }

    assert 0 < taken_out[HalfSpace] < min(taken_out[Orthogonal], taken_out[SignRule])


@pytest.mark.parametrize("m", [2, 4, 9])
@pytest.mark.parametrize("tau", [0.0, 0.01, 0.1])
def test_sign_rule_keeps_the_principal_axes_that_agree(m, tau):
    rows = normal(m).numpy()
    forget, retain = rows[0], rows[1:]
    axes = np.linalg.svd(retain / np.linalg.norm(retain, axis=1, keepdims=True), full_matrices=False)[2]
    own = retain.sum(0)
    expected = forget.copy()
    for axis in axes:
        if not (axis @ forget) * (axis @ own) > tau * np.linalg.norm(forget) * np.linalg.norm(own):
            expected -= (axis @ forget) * axis

    assert_close(left_of_the_forget_gradient(SignRule(tau), torch.from_numpy(rows)), torch.from_numpy(expected))


@every_sampler
def test_of_one_retain_row_the_sign_rule_is_the_half_space(sampler):
    rows = sampler(2)

    assert_close(SignRule()(rows @ rows.T), HalfSpace()(rows @ rows.T), rtol=1e-6, atol=1e-9)


def test_a_large_threshold_makes_the_sign_rule_orthogonal():
    rows = normal(5)

    assert_close(merge(SignRule(tau=1.0), rows), merge(Orthogonal(), rows))


@pytest.mark.parametrize("tau", [-0.1, float("nan"), float("inf")])
def test_a_threshold_that_would_keep_conflicts_is_refused(tau):
    with pytest.raises(ValueError, match=rf"`tau` should be finite and not negative.*Found `tau = {tau}`"):
        SignRule(tau=tau)


@every_sampler
@pytest.mark.parametrize("seed", range(3))
def test_of_two_rows_pcgrad_is_torchjds(sampler, seed):
    rows = sampler(2, seed)

    assert_close(PCGrad()(rows @ rows.T), PCGradWeighting()(rows @ rows.T))


@pytest.mark.parametrize("sampler", [normal, agreeing, conflicting])
def test_pcgrad_projects_the_two_tasks_onto_each_others_normal_plane(sampler):
    rows = sampler(4)
    forget, retain = rows[0], rows[1:].sum(0)
    expected = forget + retain
    if forget @ retain < 0:
        expected = forget - (forget @ retain) / (retain @ retain) * retain + retain
        expected = expected - (forget @ retain) / (forget @ forget) * forget

    assert_close(merge(PCGrad(), rows), expected)


def test_retain_rows_that_cancel_leave_the_forget_gradient_to_itself():
    rows = normal(3)
    rows[2] = -rows[1] * (1 + 1e-15)

    assert PCGrad()(rows @ rows.T).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("projector", "weights"),
    [(Orthogonal(), [1, 1.5]), (HalfSpace(), [1, 1.5]), (SignRule(), [1, 1.5]), (PCGrad(), [1.125, 1.5])],
    ids=repr,
)
def test_a_conflict_by_hand(projector, weights):
    """Lengths 2 and 1, product -1/2: half of the retain gradient, an eighth of the forget gradient."""
    gramian = torch.tensor([[4.0, -0.5], [-0.5, 1.0]], dtype=torch.float64)

    assert projector(gramian).tolist() == pytest.approx(weights)
