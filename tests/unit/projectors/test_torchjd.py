"""TorchJD's weightings as projectors."""

import importlib.util
import sys

import pytest
import torch
from _gramians import normal
from torch.testing import assert_close
from torchjd import aggregation

from lightning_unlearn.cli import script
from lightning_unlearn.cli._parser import Parser
from lightning_unlearn.projectors import PCGrad, TorchJD

WEIGHTINGS = {
    "AlignedMTLWeighting": {},
    "CAGradWeighting": {"c": 0.5},
    "ConstantWeighting": {"weights": torch.tensor([0.5, 1.0, 2.0, 1.0])},
    "DualProjWeighting": {},
    "FairGradWeighting": {"alpha": 1.0},
    "GradVacWeighting": {},
    "IMTLGWeighting": {},
    "KrumWeighting": {"n_byzantine": 1},
    "MeanWeighting": {},
    "MGDAWeighting": {},
    "PCDWeighting": {},
    "PCGradWeighting": {},
    "RandomWeighting": {},
    "SumWeighting": {},
    "UPGradWeighting": {},
}
NEEDS = {"CAGradWeighting": "cvxpy", "DualProjWeighting": "quadprog", "UPGradWeighting": "quadprog"}
REFUSED = ["ExcessMTLWeighting", "MoDoWeighting", "SDMGradWeighting"]
REMEMBERED = torch.tensor([[1.0, -0.5], [-0.5, 2.0]], dtype=torch.float64)


def build(name):
    if name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None:
        pytest.skip(f"{name} needs {NEEDS[name]}")
    return getattr(aggregation, name)(**WEIGHTINGS[name])


def gramian(m=4):
    rows = normal(m)
    return rows @ rows.T


def test_every_weighting_is_named_here():
    """A release of TorchJD that brings a new one should make us look at it."""
    names = {name for name in aggregation.__all__ if name.endswith("Weighting")}

    assert names - {"Weighting", "CRMOGMWeighting"} == {*WEIGHTINGS, *REFUSED}


@pytest.mark.parametrize("name", sorted(WEIGHTINGS.keys() - {"RandomWeighting"}))
def test_weights_are_torchjds_own(name):
    projector, weighting = TorchJD(build(name)), build(name)
    square = gramian(2) if name in {"PCGradWeighting", "GradVacWeighting"} else gramian()  # of two, no order is drawn

    for step in range(1, 4):  # some remember
        weights = projector(step * square)
        assert_close(weights, weighting(step * square).double())


def test_what_one_remembers_is_gone_with_the_next_fit_and_with_a_resumed_one():
    projector, resumed = TorchJD(build("GradVacWeighting")), TorchJD(build("GradVacWeighting"))
    fits = []
    for _ in range(2):
        projector.start_anew()
        fits.append([projector(REMEMBERED).tolist() for _ in range(3)])
    resumed.load_state_dict(projector.state_dict())
    fits.append([resumed(REMEMBERED).tolist() for _ in range(3)])

    assert fits[0] == fits[1] == fits[2]
    assert projector(REMEMBERED).tolist() != fits[0][0]


@pytest.mark.parametrize("name", ["PCGradWeighting", "RandomWeighting"])
def test_ranks_with_other_generators_draw_the_same(name):
    weights = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        weights.append(TorchJD(build(name))(gramian()))

    assert torch.equal(*weights)


def test_the_next_step_draws_anew():
    projector = TorchJD(aggregation.RandomWeighting())

    assert not torch.equal(projector(gramian()), projector(1.01 * gramian()))


def test_it_composes_with_torchjds_own_wrappers():
    smooth = TorchJD(aggregation.CRMOGMWeighting(aggregation.MGDAWeighting()))

    assert smooth(gramian()).sum() == pytest.approx(1.0)


def test_upgrad_of_two_rows_is_half_of_pcgrad():
    rows = normal(2)
    rows[1] -= rows[0]

    weights = TorchJD(build("UPGradWeighting"))(rows @ rows.T)

    assert_close(2 * weights, PCGrad()(rows @ rows.T), rtol=1e-3, atol=1e-3)  # it adds 1e-4 to the diagonal


def test_upgrad_by_default_projects_no_short_gradients():
    """The warning in the docstring."""
    short = 1e-3 * torch.tensor([[1.0, -0.9], [-0.9, 1.0]], dtype=torch.float64) / 100

    assert TorchJD(build("UPGradWeighting"))(short).tolist() == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("name", REFUSED)
def test_a_weighting_of_another_matrix_is_refused(name):
    with pytest.raises(TypeError, match=f"should need nothing but a Gramian. Found `{name}`"):
        TorchJD(getattr(aggregation, name)())


def test_a_wrapped_weighting_of_another_matrix_is_refused():
    with pytest.raises(TypeError, match=r"should need nothing but a Gramian. Found `MoDoWeighting`"):
        TorchJD(aggregation.CRMOGMWeighting(aggregation.MoDoWeighting()))


def test_an_aggregator_is_refused_with_the_way_out():
    with pytest.raises(TypeError, match=r"their names end in `Weighting`. Found `PCGrad`"):
        TorchJD(aggregation.PCGrad())


def test_without_torchjd_the_error_says_what_to_install(monkeypatch):
    weighting = aggregation.MeanWeighting()
    monkeypatch.setitem(sys.modules, "torchjd.aggregation", None)

    with pytest.raises(ImportError, match=r'`torchjd`. It is missing: `pip install "lightning-unlearn\[torchjd\]"`'):
        TorchJD(weighting)


def test_on_the_command_line_a_weighting_without_its_solver_says_what_to_install(monkeypatch):
    arguments = ["--projector=lightning_unlearn.TorchJD", "--projector.weighting=torchjd.aggregation.UPGradWeighting"]
    command = ["fit", "--config=bundled:quickstart", *(text.replace("--", "--unlearn.") for text in arguments)]
    monkeypatch.setattr(sys, "argv", ["lightning-unlearn", *command])
    monkeypatch.setattr("torchjd._mixins.find_spec", lambda name: None)

    with pytest.raises(SystemExit, match=r'requires .*quadprog.* pip install "torchjd\[quadprog_projector\]"'):
        script()


def test_on_the_command_line_a_missing_torchjd_is_named_once_with_the_command(capsys):
    with pytest.raises(SystemExit):
        Parser().error("Problem with given class_path 'torchjd.aggregation.X':\n  No module named 'torchjd'")
    said = capsys.readouterr().err
    with pytest.raises(SystemExit):
        Parser().error(said)

    assert capsys.readouterr().err.count('`pip install "lightning-unlearn[torchjd]"` installs it.') == 1


def test_weights_that_are_not_finite_are_not_passed_on():
    projector = TorchJD(aggregation.ConstantWeighting(torch.tensor([1.0, float("nan")])))

    with pytest.raises(FloatingPointError, match=r"weights should be finite. `ConstantWeighting` found \[1.0, nan\]"):
        projector(torch.eye(2, dtype=torch.float64))
