"""Which inputs a subspace protects, against singular values of all inputs together."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from lightning_unlearn.functional.subspace import thinner
from lightning_unlearn.guards import InputSubspace, NullSpace, Subspace

D = 24


@pytest.fixture
def inputs() -> Tensor:
    """Scales from 1 to 1e-3, in random directions."""
    scales = torch.logspace(0, -3, D, dtype=torch.float64)
    return (torch.randn(300, D, dtype=torch.float64) * scales) @ rotation()


def rotation() -> Tensor:
    return torch.linalg.qr(torch.randn(D, D, dtype=torch.float64))[0]


def found(subspace: Subspace, *batches: Tensor) -> Tensor:
    return subspace.protected(sum(subspace.summary(batch) for batch in batches))[0]  # type: ignore[arg-type]


def onto(basis: Tensor) -> Tensor:
    return basis @ basis.T


@pytest.mark.parametrize("threshold", [1e-5, 1e-3, 1e-2, 0.3])
def test_the_null_space_is_that_of_the_singular_values(threshold: float, inputs: Tensor) -> None:
    _, singular, rows = torch.linalg.svd(inputs, full_matrices=False)
    expected = rows[singular**2 > threshold * singular[0] ** 2]
    assert 0 < len(expected) < D
    assert_close(onto(found(NullSpace(threshold), inputs)), onto(expected.T))


@pytest.mark.parametrize("energy", [0.5, 0.9, 0.99, 0.9999])
def test_the_energy_is_that_of_the_singular_values(energy: float, inputs: Tensor) -> None:
    _, singular, rows = torch.linalg.svd(inputs, full_matrices=False)
    shares = (singular**2).cumsum(0) / (singular**2).sum()
    expected = rows[: int((shares < energy).sum()) + 1]
    assert_close(onto(found(InputSubspace(energy), inputs)), onto(expected.T))


@pytest.mark.parametrize("seed", range(5))
def test_a_thin_sketch_finds_a_clear_spectrum(seed: int) -> None:
    """Six directions far above the others: their number is exact, their span almost."""
    scales = torch.cat([torch.linspace(3, 1, 6), torch.full((94,), 1e-3)]).double()
    q = torch.linalg.qr(torch.randn(100, 100, dtype=torch.float64))[0]
    rows = (torch.randn(500, 100, dtype=torch.float64) * scales) @ q
    _, singular, directions = torch.linalg.svd(rows, full_matrices=False)
    shares = (singular**2).cumsum(0) / (singular**2).sum()
    rank = int((shares < 0.99).sum()) + 1
    subspace = InputSubspace(0.99, width=12, seed=seed)
    basis, is_enough = subspace.protected(subspace.summary(rows))
    assert is_enough
    assert basis.shape == (100, rank)
    missed = directions[:rank].T - onto(basis) @ directions[:rank].T
    assert float(missed.norm()) < 1e-3


def test_a_sketch_of_inputs_of_low_rank_recovers_their_span() -> None:
    rows = torch.randn(200, 5, dtype=torch.float64) @ torch.randn(5, 60, dtype=torch.float64)
    basis = found(InputSubspace(1.0, width=10), rows)
    assert basis.shape == (60, 5)
    assert float((rows - rows @ onto(basis)).norm() / rows.norm()) < 1e-12


SUBSPACES = [NullSpace(1e-3), InputSubspace(0.99), InputSubspace(0.9, width=10), InputSubspace(0.99, rank=3)]


@pytest.mark.parametrize("subspace", SUBSPACES, ids=repr)
def test_batches_add_up_in_any_order_and_scale_does_not_matter(subspace: Subspace, inputs: Tensor) -> None:
    expected = onto(found(subspace, inputs))
    parts = inputs.split([100, 7, 193])
    assert_close(onto(found(subspace, *reversed(parts))), expected)
    assert_close(onto(found(subspace, 1e3 * inputs)), expected)


@pytest.mark.parametrize("subspace", SUBSPACES, ids=repr)
def test_bases_are_orthonormal_with_what_there_is_most_of_first(subspace: Subspace, inputs: Tensor) -> None:
    basis = found(subspace, inputs)
    assert_close(basis.T @ basis, torch.eye(basis.shape[1], dtype=torch.float64))
    energies = (inputs @ basis).square().sum(0)
    assert bool((energies.diff() <= 0).all())


@pytest.mark.parametrize("subspace", SUBSPACES, ids=repr)
def test_no_inputs_at_all_leave_everything_free(subspace: Subspace) -> None:
    assert found(subspace, torch.zeros(0, D, dtype=torch.float64)).shape == (D, 0)
    assert found(subspace, torch.zeros(4, D, dtype=torch.float64)).shape == (D, 0)


@pytest.mark.parametrize(
    "sweep",
    [
        [NullSpace(t) for t in (0, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1)],
        [InputSubspace(e) for e in (1, 0.99, 0.9, 0.5, 1e-9)],
    ],
    ids=["threshold", "energy"],
)
def test_the_more_is_free_the_more_is_kept_and_the_more_drifts(sweep: list[Subspace], inputs: Tensor) -> None:
    change = torch.randn(7, D, dtype=torch.float64)
    allowed = [thinner(found(subspace, inputs))(change) for subspace in sweep]
    kept = [float(step.norm() / change.norm()) for step in allowed]
    drift = [float((inputs @ step.T).norm() / (inputs @ change.T).norm()) for step in allowed]
    assert kept == sorted(kept)
    assert drift == sorted(drift)
    assert kept[0] < 1e-9
    assert drift[0] < 1e-9
    assert len(set(kept)) == len(sweep)
    assert kept[-1] == 1 or isinstance(sweep[0], InputSubspace)  # one direction at least is protected


def test_rank_caps_and_a_thin_sketch_is_said_to_be_one(inputs: Tensor) -> None:
    for subspace, columns, expected in (
        (InputSubspace(1.0), D, True),
        (InputSubspace(1.0, rank=3), 3, True),
        (InputSubspace(1.0, width=5), 5, False),
        (InputSubspace(1e-9, rank=3), 1, True),
        (InputSubspace(1e-9, width=5), 1, True),
    ):
        basis, is_enough = subspace.protected(subspace.summary(inputs))
        assert (basis.shape[1], is_enough) == (columns, expected), subspace


def test_the_same_seed_is_the_same_sketch_and_draws_from_nobody(inputs: Tensor) -> None:
    state = torch.get_rng_state()
    first = InputSubspace(width=5, seed=1).summary(inputs)
    assert torch.equal(first, InputSubspace(width=5, seed=1).summary(inputs))
    assert not torch.equal(first, InputSubspace(width=5, seed=2).summary(inputs))
    assert torch.equal(torch.get_rng_state(), state)
    assert first.shape == (D, 6)  # and nothing that grows with the number of inputs, or with its square


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: NullSpace(-0.1), r"`threshold` should be in \[0, 1\].*Found `threshold = -0.1`"),
        (lambda: NullSpace(2), "Found `threshold = 2`"),
        (lambda: InputSubspace(0), r"`energy` should be in \(0, 1\]. Found `energy = 0`"),
        (lambda: InputSubspace(1.1), "Found `energy = 1.1`"),
        (lambda: InputSubspace(rank=0), "`rank` should be at least 1, or `None`. Found `rank = 0`"),
        (lambda: InputSubspace(width=0), "Found `width = 0`"),
        (lambda: InputSubspace(rank=9, width=8), "`width` should be at least `rank`.*Found `width = 8`, `rank = 9`"),
    ],
)
def test_settings_that_make_no_sense_are_refused(build: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()  # type: ignore[operator]
