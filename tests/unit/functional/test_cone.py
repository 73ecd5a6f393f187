"""Exact projections from inner products alone, against oracles that see the vectors."""

from itertools import combinations

import numpy as np
import pytest
import torch
from _gramians import SAMPLERS, WIDTH, badly_scaled, duplicate, nearly_dependent, normal
from scipy.optimize import minimize, nnls
from torch.testing import assert_close

from lightning_unlearn.functional import cone
from lightning_unlearn.functional.cone import cone_multipliers, null_multipliers

DIRECTIONS = [1, 2, 3, 8, 9, 16]

every_rule = pytest.mark.parametrize("rule", [null_multipliers, cone_multipliers])
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
every_k = pytest.mark.parametrize("k", DIRECTIONS)


class Case:
    """Directions, a diagonal metric and a step, and what the correction makes of it."""

    def __init__(self, directions, seed=7, within=False):
        generator = torch.Generator().manual_seed(seed)
        self.directions = directions
        self.metric = 10 ** (2 * torch.rand(WIDTH, generator=generator, dtype=torch.float64) - 1)
        self.step = torch.randn(WIDTH, generator=generator, dtype=torch.float64)
        if within:  # the step has no part outside the span
            self.step = torch.linalg.pinv(directions) @ torch.randn(len(directions), generator=generator).double()
        self.gramian = directions @ (directions / self.metric).T
        self.products = directions @ self.step

    def after(self, multipliers):
        return self.step - (multipliers @ self.directions) / self.metric

    def whitened(self):
        """Directions of unit length, and the step, where the metric is Euclidean."""
        vectors = self.directions / self.metric.sqrt()
        lengths = vectors.norm(dim=1, keepdim=True)
        return vectors / lengths.where(lengths > 0, 1), self.step * self.metric.sqrt()

    def cosines(self, step):
        vectors, before = self.whitened()
        return vectors @ (step * self.metric.sqrt()) / before.norm()

    def distance(self, one, other):
        return float(((one - other) * self.metric.sqrt()).norm() / (self.step * self.metric.sqrt()).norm())


def project_by_nnls(case):
    """What a cone's projection leaves is the residual of the fit by the directions (Moreau)."""
    vectors, step = case.whitened()
    fit, _ = nnls(vectors.T.numpy(), (step / step.norm()).numpy(), maxiter=10_000)
    left = step - vectors.T @ torch.from_numpy(fit) * step.norm()
    return left / case.metric.sqrt()


def project_by_enumeration(case):
    """Every subset of the directions held at equality; of those steps that are safe, the nearest."""
    vectors, step = case.whitened()
    best = torch.zeros_like(step)
    for size in range(len(vectors) + 1):
        for chosen in combinations(range(len(vectors)), size):
            held = torch.linalg.svd(vectors[list(chosen)].T, full_matrices=False)
            basis = held.U[:, held.S > 1e-9]
            candidate = step - basis @ (basis.T @ step)
            if (vectors @ candidate <= 1e-9 * step.norm()).all() and (step - candidate).norm() < (step - best).norm():
                best = candidate
    return best / case.metric.sqrt()


@every_sampler
@every_k
@pytest.mark.parametrize("within", [False, True], ids=["anywhere", "within the span"])
def test_the_cone_is_the_projection_scipy_finds_from_the_vectors(sampler, k, within):
    case = Case(sampler(k), within=within and sampler is normal)

    correction = cone_multipliers(case.gramian, case.products)

    assert case.distance(case.after(correction.multipliers), project_by_nnls(case)) < 1e-5
    assert bool(correction.exact)


@every_sampler
@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_cone_is_the_nearest_of_all_active_sets(sampler, k, seed):
    case = Case(sampler(k, seed), seed=seed)

    correction = cone_multipliers(case.gramian, case.products)

    assert case.distance(case.after(correction.multipliers), project_by_enumeration(case)) < 1e-5


@pytest.mark.parametrize("sampler", [normal, duplicate])
def test_the_cone_solves_the_quadratic_program(sampler):
    case = Case(sampler(6))
    vectors, step = (tensor.numpy() for tensor in case.whitened())

    program = minimize(
        lambda d: 0.5 * np.sum((d - step) ** 2),
        np.zeros(WIDTH),
        jac=lambda d: d - step,
        constraints={"type": "ineq", "fun": lambda d: -vectors @ d, "jac": lambda d: -vectors},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )

    found = case.after(cone_multipliers(case.gramian, case.products).multipliers) * case.metric.sqrt()
    assert_close(found, torch.from_numpy(program.x), rtol=0, atol=1e-5)


@every_sampler
@every_k
def test_the_conditions_of_optimality_hold(sampler, k):
    case = Case(sampler(k))

    multipliers = cone_multipliers(case.gramian, case.products).multipliers

    lengths = case.gramian.diagonal().sqrt()
    left = case.cosines(case.after(multipliers))
    assert (multipliers >= 0).all()
    assert (left <= 1e-5).all()
    # What is held back is held at equality: multiplier and slack are not both away from zero.
    share = multipliers * lengths / (case.step * case.metric.sqrt()).norm()
    assert (torch.minimum(share, left.abs()) < 1e-5).all()


@every_sampler
@every_k
def test_null_is_the_projection_by_qr(sampler, k):
    case = Case(sampler(k))
    vectors, step = case.whitened()
    decomposition = torch.linalg.svd(vectors.T, full_matrices=False)
    largest = decomposition.S.max()
    basis, _ = torch.linalg.qr(decomposition.U[:, decomposition.S.gt(largest * 1e-6)])
    expected = step - basis @ (basis.T @ step) if largest else step

    correction = null_multipliers(case.gramian, case.products)

    assert case.distance(case.after(correction.multipliers), expected / case.metric.sqrt()) < 1e-5
    assert case.cosines(case.after(correction.multipliers)).abs().max() < 1e-5
    assert bool(correction.exact)


@pytest.mark.parametrize("product", [3.0, 0.0, -3.0])
@pytest.mark.parametrize("square", [1e-30, 2.0, 1e30])
def test_one_direction_has_a_closed_form(product, square):
    square, product = torch.tensor([[square]]).double(), torch.tensor([product]).double()

    assert_close(cone_multipliers(square, product).multipliers, product.clamp_min(0) / square[0])
    assert_close(null_multipliers(square, product).multipliers, product / square[0])


def test_two_orthogonal_directions_by_hand():
    gramian = torch.tensor([[4.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    products = torch.tensor([2.0, -3.0], dtype=torch.float64)

    assert cone_multipliers(gramian, products).multipliers.tolist() == pytest.approx([0.5, 0.0])
    assert null_multipliers(gramian, products).multipliers.tolist() == pytest.approx([0.5, -3.0])


@every_sampler
@every_k
def test_a_safe_step_stays_as_it_is_to_the_bit(sampler, k):
    case = Case(sampler(k))

    correction = cone_multipliers(case.gramian, -case.products.abs())

    assert (correction.multipliers == 0).all()
    assert float(correction.violation) == 0
    assert bool(correction.exact)


@every_rule
@every_sampler
def test_correcting_twice_is_correcting_once(rule, sampler):
    case = Case(sampler(8))
    once = case.after(rule(case.gramian, case.products).multipliers)

    again = Case(case.directions)
    again.step, again.products = once, case.directions @ once
    twice = again.after(rule(again.gramian, again.products).multipliers)

    assert case.distance(once, twice) < 2e-5


def test_the_cone_takes_out_less_than_null():
    case = Case(normal(8))

    least = case.after(cone_multipliers(case.gramian, case.products).multipliers)
    most = case.after(null_multipliers(case.gramian, case.products).multipliers)

    assert 0 < case.distance(case.step, least) < case.distance(case.step, most)


@every_rule
def test_the_length_of_a_direction_does_not_matter(rule):
    directions, lengths = normal(6), torch.tensor([1e-15, 1e-8, 1.0, 1e3, 1e8, 1e15], dtype=torch.float64)
    case, scaled = Case(directions), Case(directions * lengths[:, None])

    once = case.after(rule(case.gramian, case.products).multipliers)
    other = scaled.after(rule(scaled.gramian, scaled.products).multipliers)

    assert_close(other, once, rtol=1e-9, atol=1e-12)


@every_rule
@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_the_correction_grows_with_the_step(rule, scale):
    case = Case(badly_scaled(5))

    one = rule(case.gramian, case.products)
    other = rule(case.gramian, scale * case.products)

    assert_close(other.multipliers, scale * one.multipliers, rtol=1e-8, atol=0)
    assert_close(other.violation, one.violation, rtol=0, atol=1e-9)


@every_rule
def test_a_batch_is_many_problems(rule):
    cases = [Case(sampler(5), seed=seed) for seed, sampler in enumerate(SAMPLERS.values())]
    gramians = torch.stack([case.gramian for case in cases]).view(2, -1, 5, 5)
    products = torch.stack([case.products for case in cases]).view(2, -1, 5)

    batch = rule(gramians, products)

    for i, case in enumerate(cases):
        alone = rule(case.gramian, case.products)
        at = divmod(i, len(cases) // 2)
        assert_close(case.after(batch.multipliers[at]), case.after(alone.multipliers), rtol=1e-9, atol=1e-9)
        assert bool(batch.exact[at]) == bool(alone.exact)
        assert_close(batch.violation[at], alone.violation, rtol=0, atol=1e-9)


@every_rule
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_what_is_not_finite_is_reported_and_harms_no_other_problem(rule, poison):
    case = Case(normal(3))
    gramians, products = case.gramian.repeat(3, 1, 1), case.products.repeat(3, 1)
    gramians[0, 1, 2] = poison
    products[1, 0] = poison

    correction = rule(gramians, products)

    assert (correction.multipliers[:2] == 0).all()
    assert correction.violation[:2].tolist() == [float("inf")] * 2
    assert correction.exact.tolist() == [False, False, True]
    assert_close(correction.multipliers[2], rule(case.gramian, case.products).multipliers)


@every_rule
def test_nothing_to_protect_is_no_correction(rule):
    correction = rule(torch.zeros(0, 0).double(), torch.zeros(0).double())

    assert correction.multipliers.shape == (0,)
    assert float(correction.violation) == 0
    assert bool(correction.exact)


@every_rule
def test_products_no_step_can_have_are_reported(rule):
    same_direction_twice = torch.ones(2, 2, dtype=torch.float64)

    correction = rule(same_direction_twice, torch.tensor([1.0, 0.5], dtype=torch.float64))

    assert correction.multipliers.isfinite().all()
    assert float(correction.violation) > 0.1
    assert not bool(correction.exact)


def test_if_the_search_fails_null_takes_its_place(monkeypatch):
    monkeypatch.setattr(cone, "non_negative_least_squares", lambda matrix, target: (np.ones(len(target)), False))
    case = Case(normal(4))

    correction = cone_multipliers(case.gramian, case.products)

    assert_close(correction.multipliers, null_multipliers(case.gramian, case.products).multipliers)
    assert not bool(correction.exact)
    assert float(correction.violation) < 1e-12


@every_rule
def test_the_violation_does_not_understate_what_is_left_of_the_vectors(rule):
    case = Case(nearly_dependent(8))

    correction = rule(case.gramian, case.products)

    left = case.cosines(case.after(correction.multipliers))
    left = left.abs().max() if rule is null_multipliers else left.clamp_min(0).max()
    assert float(left) - 1e-9 <= float(correction.violation) <= 1e-5


@pytest.mark.parametrize("angle", [5e-6, 1e-6])
@pytest.mark.parametrize("k", [9, 16])
@pytest.mark.parametrize("seed", range(4))
def test_directions_all_but_on_one_line_leave_no_more_than_noise(angle, k, seed):
    line, *around = normal(k + 1, seed)
    either_way = 1 - 2 * (torch.arange(k) % 3 == 0).double()
    case = Case(either_way[:, None] * line + angle * torch.stack(around), seed=seed)
    case.step = case.step + 3 * line / case.metric
    case.products = case.directions @ case.step

    left = case.cosines(case.after(cone_multipliers(case.gramian, case.products).multipliers))

    assert left.max() < 1e-5


def test_arguments_are_left_alone():
    case = Case(normal(4))
    gramian, products = case.gramian.clone(), case.products.clone()

    cone_multipliers(case.gramian, case.products)
    null_multipliers(case.gramian, case.products)

    assert torch.equal(case.gramian, gramian)
    assert torch.equal(case.products, products)
