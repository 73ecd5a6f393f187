"""What each projector computes, against oracles that see the gradients."""

import numpy as np
import pytest
import torch
from _gramians import SAMPLERS, agreeing, conflicting, dependent, normal
from scipy.optimize import lsq_linear
from torch.testing import assert_close
from torchjd.aggregation import PCGradWeighting

from lightning_unlearn.projectors import (
    HalfSpace,
    NGDiff,
    Orthogonal,
    PCGrad,
    PreferForget,
    PreferForgetInConflict,
    SignRule,
)

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
    # Not `nnls`, which in scipy 1.13 does not end on rows that depend on each other.
    added = lsq_linear(rows[1:].T.numpy(), -rows[0].numpy(), bounds=(0, np.inf), method="bvls", tol=1e-14).x

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


@pytest.mark.parametrize("sampler", [normal, agreeing, conflicting, dependent])
@pytest.mark.parametrize("m", [2, 5, 9])
def test_ng_diff_descends_on_both_by_how_much_they_agree(sampler, m):
    rows = sampler(m)
    forget, retain = rows[0], rows[1:].sum(0)
    agreement = 1 + torch.cosine_similarity(forget, retain, dim=0)

    merged = merge(NGDiff(), rows)

    assert_close(merged @ retain, retain.norm() * agreement, rtol=1e-12, atol=1e-12)
    assert_close(merged @ forget, forget.norm() * agreement, rtol=1e-12, atol=1e-12)


def test_ng_diff_does_not_care_how_long_each_of_the_two_is():
    rows, longer = normal(4), normal(4)
    longer[0] *= 1e6
    longer[1:] *= 1e-6

    assert_close(merge(NGDiff(), longer), merge(NGDiff(), rows))


@pytest.mark.parametrize("row", [0, 1])
def test_ng_diff_of_one_gradient_alone_is_its_direction(row):
    rows = normal(2)
    rows[1 - row] = 0

    assert_close(merge(NGDiff(), rows), rows[row] / rows[row].norm())


def test_ng_diff_gives_no_length_to_retain_rows_that_cancel():
    rows = normal(3)
    rows[2] = -rows[1] * (1 + 1e-15)

    assert_close(merge(NGDiff(), rows), rows[0] / rows[0].norm())


@pytest.mark.parametrize("sampler", [normal, agreeing, conflicting])
@pytest.mark.parametrize("gamma", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("m", [2, 5])
def test_prefer_forget_lowers_the_forget_loss_exactly_as_forgetting_alone(sampler, gamma, m):
    rows = sampler(m)
    forget, retain = rows[0], rows[1:].sum(0)

    merged = merge(PreferForget(gamma), rows)

    assert_close(merged @ forget, forget @ forget, rtol=1e-12, atol=1e-12)
    basis = forget / forget.norm()
    assert_close(merged - forget, gamma * (retain - (retain @ basis) * basis), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("m", [2, 5])
def test_in_conflict_prefer_forget_differs_and_else_it_keeps_the_help(m):
    conflict, help_ = conflicting(m), agreeing(m)

    assert_close(merge(PreferForgetInConflict(), conflict), merge(PreferForget(), conflict), rtol=0, atol=0)
    forget, retain = help_[0], help_[1:].sum(0)
    assert_close(merge(PreferForgetInConflict(), help_) @ forget, forget @ forget + retain @ forget)
    assert retain @ forget > 0.1 * (forget @ forget)


@pytest.mark.parametrize("projector", [PreferForget, PreferForgetInConflict])
@pytest.mark.parametrize("gamma", [0.0, -1.0, float("nan")])
def test_a_weight_without_retaining_is_refused(projector, gamma):
    with pytest.raises(ValueError, match=rf"`gamma` should be positive and finite.*Found `gamma = {gamma}`"):
        projector(gamma)


def test_retain_rows_that_cancel_leave_the_forget_gradient_to_itself():
    rows = normal(3)
    rows[2] = -rows[1] * (1 + 1e-15)

    assert PCGrad()(rows @ rows.T).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("projector", "weights"),
    [
        (Orthogonal(), [1, 1.5]),
        (HalfSpace(), [1, 1.5]),
        (SignRule(), [1, 1.5]),
        (PCGrad(), [1.125, 1.5]),
        (NGDiff(), [0.5, 1]),
        (PreferForget(), [1.125, 1]),
        (PreferForgetInConflict(gamma=2.0), [1.25, 2]),
    ],
    ids=repr,
)
def test_a_conflict_by_hand(projector, weights):
    """Lengths 2 and 1, product -1/2: half of the retain gradient, an eighth of the forget gradient."""
    gramian = torch.tensor([[4.0, -0.5], [-0.5, 1.0]], dtype=torch.float64)

    assert projector(gramian).tolist() == pytest.approx(weights)
