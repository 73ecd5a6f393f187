"""The weighted sum: fixed weights, whatever the gradients."""

import pytest
import torch
from torch.testing import assert_close

from lightning_unlearn.projectors import WeightedSum


def test_the_users_gradient_is_applied_whole():
    weights = WeightedSum(forget=0.25)(torch.eye(3, dtype=torch.float64))

    assert_close(weights, torch.tensor([0.25, 1.0, 1.0], dtype=torch.float64), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["forget", "retain"])
@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_weight_that_is_no_weight_is_refused(name, weight):
    with pytest.raises(ValueError, match=rf"`{name}` should be finite and not negative.*Found `{name} = {weight}`"):
        WeightedSum(**{name: weight})
