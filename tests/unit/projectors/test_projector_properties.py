"""What every projector keeps to; a new one joins the list and inherits these."""

import pytest
import torch
from _gramians import SAMPLERS, agreeing, conflicting, normal
from jsonargparse import ArgumentParser
from torch.testing import assert_close
from torchjd.aggregation import PCGradWeighting

from lightning_unlearn.projectors import (
    HalfSpace,
    LinearSchedule,
    Orthogonal,
    PCGrad,
    Projector,
    SignRule,
    TorchJD,
    WeightedSum,
)

PROJECTORS = {
    "WeightedSum": WeightedSum,
    "LinearSchedule": lambda: LinearSchedule(steps=2, retain=(1.0, 1.0)),
    "Orthogonal": Orthogonal,
    "HalfSpace": HalfSpace,
    "SignRule": SignRule,
    "PCGrad": PCGrad,
    "TorchJD(PCGrad)": lambda: TorchJD(PCGradWeighting()),
}
# What forgetting may not raise to first order: the loss of each retain row, of their sum, of a lone retain row.
PROTECT_EACH = {name: PROJECTORS[name] for name in ("Orthogonal", "HalfSpace")}
PROTECT_SUM = PROTECT_EACH | {name: PROJECTORS[name] for name in ("SignRule", "PCGrad")}
PROTECT_ONE = PROTECT_SUM | {"TorchJD(PCGrad)": PROJECTORS["TorchJD(PCGrad)"]}
# Where nothing conflicts, the sum of all gradients.
LEAVE_AGREEMENT = {name: PROJECTORS[name] for name in ("WeightedSum", "HalfSpace", "PCGrad", "TorchJD(PCGrad)")}
# The retain rows are one task, cut into micro-batches.
ONE_TASK = {name: build for name, build in PROJECTORS.items() if name != "TorchJD(PCGrad)"}

every_sampler = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
every_size = pytest.mark.parametrize("m", [2, 3, 5, 9])
every_projector = pytest.mark.parametrize("build", PROJECTORS.values(), ids=PROJECTORS)


def of(projectors):
    return pytest.mark.parametrize("build", projectors.values(), ids=projectors)


def cosines(gradient, rows):
    """Of ``gradient`` with each of ``rows``, its length that of the forget gradient at least: rounding counts as none."""
    lengths = rows.norm(dim=1)
    length = torch.maximum(gradient.norm(), lengths[0])
    return rows @ gradient / (lengths * length).where(lengths * length > 0, 1)


@every_projector
@every_sampler
@every_size
@pytest.mark.parametrize("scale", [1e-10, 1.0, 1e15])
def test_weights_are_finite_one_per_row(build, sampler, m, scale):
    rows = scale * sampler(m)

    weights = build()(rows @ rows.T)

    assert weights.shape == (m,)
    assert weights.dtype == torch.float64
    assert weights.isfinite().all()


@of(PROTECT_EACH)
@every_sampler
@every_size
def test_the_forget_part_conflicts_with_no_retain_row(build, sampler, m):
    rows = sampler(m)
    weights = build()(rows @ rows.T)
    weights[1:] -= 1  # the user's own gradient may do as it likes

    assert (cosines(weights @ rows, rows)[1:] >= -1e-5).all()


@of(PROTECT_SUM)
@every_sampler
@every_size
def test_the_merged_gradient_does_not_conflict_with_the_users_own(build, sampler, m):
    rows = sampler(m)

    merged = build()(rows @ rows.T) @ rows

    own = torch.stack([rows[0], rows[1:].sum(0)])
    assert cosines(merged, own)[1] >= -1e-5


@of(PROTECT_ONE)
@every_sampler
def test_of_two_rows_the_merged_gradient_does_not_conflict_with_the_second(build, sampler):
    rows = sampler(2)

    merged = build()(rows @ rows.T) @ rows

    assert cosines(merged, rows)[1] >= -1e-9


def test_a_sum_promises_nothing():
    rows = conflicting(2)
    rows[0] *= 3

    merged = WeightedSum()(rows @ rows.T) @ rows

    assert cosines(merged, rows)[1] < -0.1


@of(LEAVE_AGREEMENT)
@every_size
def test_what_does_not_conflict_stays_as_it_is_to_the_bit(build, m):
    rows = agreeing(m)

    assert torch.equal(build()(rows @ rows.T), torch.ones(m, dtype=torch.float64))


@of(PROTECT_ONE)
@every_size
def test_what_conflicts_does_not(build, m):
    rows = conflicting(m)

    assert not torch.allclose(build()(rows @ rows.T), torch.ones(m, dtype=torch.float64), rtol=0, atol=1e-2)


@of(ONE_TASK)
@every_size
def test_when_there_is_nothing_left_to_forget_the_users_gradient_remains(build, m):
    rows = normal(m)
    rows[0] = 0

    assert_close(build()(rows @ rows.T) @ rows, rows[1:].sum(0), rtol=1e-12, atol=0)


@of(ONE_TASK)
@every_size
@pytest.mark.parametrize("scale", [1e-10, 1e15])
def test_the_unit_of_the_gradients_does_not_matter(build, m, scale):
    rows = normal(m)

    assert_close(build()(scale**2 * (rows @ rows.T)), build()(rows @ rows.T), rtol=1e-9, atol=1e-9)


@of({name: PROJECTORS[name] for name in ("WeightedSum", "Orthogonal", "HalfSpace", "SignRule")})
@pytest.mark.parametrize("scale", [1e-3, 1e15])
def test_the_forget_part_grows_with_the_forget_gradient(build, scale):
    rows, grown = normal(5), normal(5)
    grown[0] *= scale

    one, other = (build()(r @ r.T) @ r - r[1:].sum(0) for r in (rows, grown))

    assert_close(other, scale * one, rtol=1e-9, atol=1e-9 * scale)


@of(ONE_TASK)
@every_size
def test_the_order_of_retain_rows_does_not_matter(build, m):
    rows = normal(m)
    turned = torch.cat([rows[:1], rows[1:].flip(0)])

    assert_close(build()(turned @ turned.T) @ turned, build()(rows @ rows.T) @ rows, rtol=1e-9, atol=1e-9)


@of(ONE_TASK)
def test_cutting_the_retain_gradient_into_equal_shares_changes_nothing(build):
    rows = conflicting(2)
    shares = torch.cat([rows[:1], (rows[1:] / 4).expand(4, -1)])

    assert_close(build()(shares @ shares.T) @ shares, build()(rows @ rows.T) @ rows, rtol=1e-9, atol=1e-9)


@every_projector
def test_a_forget_gradient_alone_is_taken_as_it_is(build):
    alone = torch.tensor([[7.0]], dtype=torch.float64)

    assert build()(alone).tolist() == [1.0]


@every_projector
def test_the_gramian_and_the_random_numbers_are_left_alone(build):
    rows = normal(5)
    gramian = rows @ rows.T
    before, state = gramian.clone(), torch.get_rng_state()

    first = build()(gramian)

    assert torch.equal(gramian, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(build()(gramian), first)


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ({"class_path": "WeightedSum", "init_args": {"forget": 0.5}}, "WeightedSum(forget=0.5, retain=1.0)"),
        ({"class_path": "Orthogonal"}, "Orthogonal()"),
        ({"class_path": "HalfSpace"}, "HalfSpace()"),
        ({"class_path": "SignRule", "init_args": {"tau": 0.1}}, "SignRule(tau=0.1)"),
        ({"class_path": "PCGrad"}, "PCGrad()"),
        (
            {"class_path": "TorchJD", "init_args": {"weighting": {"class_path": "torchjd.aggregation.MGDAWeighting"}}},
            "TorchJD(\n  (weighting): MGDAWeighting()\n)",
        ),
    ],
    ids=lambda argument: argument["class_path"] if isinstance(argument, dict) else "",
)
def test_yaml_builds_it_by_class_path(arguments, shown):
    parser = ArgumentParser()
    parser.add_argument("--projector", type=Projector)
    arguments["class_path"] = f"lightning_unlearn.projectors.{arguments['class_path']}"

    projector = parser.instantiate_classes(parser.parse_object({"projector": arguments})).projector

    assert repr(projector) == shown
    assert projector(torch.eye(2, dtype=torch.float64)).shape == (2,)
