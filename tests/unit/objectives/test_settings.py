"""Settings that make no sense are refused where they are made."""

import math
from functools import partial

import pytest
from jsonargparse import ArgumentError, ArgumentParser

from lightning_unlearn.objectives import (
    CEU,
    NPO,
    UNDIAL,
    WGA,
    Bounded,
    GradientAscent,
    Objective,
    SatImp,
    SimNPO,
    TopKKL,
)

REFUSED = [
    (partial(NPO, beta=0.0), r"`beta` should be positive and finite. Found `beta = 0.0`"),
    (partial(NPO, beta=-0.1), r"`beta` should be positive and finite. Found `beta = -0.1`"),
    (partial(NPO, beta=math.nan), r"`beta` should be positive and finite. Found `beta = nan`"),
    (partial(NPO, beta=math.inf), r"`beta` should be positive and finite. Found `beta = inf`"),
    (partial(SimNPO, beta=0.0), r"`beta` should be positive and finite. Found `beta = 0.0`"),
    (partial(SimNPO, gamma=math.nan), r"`gamma` should be finite. Found `gamma = nan`"),
    (partial(WGA, beta=-1.0), r"`beta` should be finite and not negative. Found `beta = -1.0`"),
    (partial(UNDIAL, beta=-1.0), r"`beta` should be finite and not negative. Found `beta = -1.0`"),
    (partial(UNDIAL, beta=math.inf), r"`beta` should be finite and not negative. Found `beta = inf`"),
    (partial(SatImp, beta1=-1.0), r"`beta1` should be finite and not negative. Found `beta1 = -1.0`"),
    (partial(SatImp, beta2=math.nan), r"`beta2` should be .* `beta2 = nan`"),
    (partial(CEU, skip_first_tokens=-1), r"`skip_first_tokens` should be at least 0. Found `skip_first_tokens = -1`"),
    (partial(TopKKL, k=1), r"`k` should be at least 2.* Found `k = 1`"),
    (partial(Bounded, GradientAscent(), bound=0.0), r"`bound` should be positive and finite.* Found `bound = 0.0`"),
    (partial(Bounded, GradientAscent(), bound=math.nan), r"`bound` should be positive and finite.* `bound = nan`"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_yaml_with_a_setting_of_the_wrong_type_is_refused():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--objective", type=Objective)
    with pytest.raises(ArgumentError, match="beta"):
        parser.parse_string("objective: {class_path: lightning_unlearn.NPO, init_args: {beta: hot}}")


def test_two_of_one_class_are_told_apart_by_name():
    assert repr(NPO(beta=0.1)) == "NPO(beta=0.1)" != repr(NPO(beta=0.2))
    assert repr(GradientAscent()) == "GradientAscent()"


def test_an_objective_of_the_users_own_is_named_alike():
    class Mine(Objective):
        def __init__(self, strength):
            super().__init__()
            self.strength = strength
            self._secret = 1

        def forward(self, student, reference=None):
            return student.token_nll().mean()

    assert repr(Mine(strength=2)) == "Mine(strength=2)"
