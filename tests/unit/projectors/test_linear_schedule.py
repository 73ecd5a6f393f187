"""Weights that go from one value to another, step by step, and go on after a checkpoint."""

import pytest
import torch

from lightning_unlearn.projectors import LinearSchedule

GRAMIAN = torch.eye(3, dtype=torch.float64)


def test_weights_are_on_the_line_and_stay_at_its_end():
    projector = LinearSchedule(steps=4, forget=(23.0, 17.25), retain=(0.0, 2.0))
    weights = [projector(GRAMIAN).tolist() for _ in range(7)]
    for step, (forget, *retain) in enumerate(weights):
        s = min(1, step / 4)
        assert forget == pytest.approx(23 * (1 - 0.25 * s))
        assert retain == pytest.approx([2 * s, 2 * s])


def test_a_checkpoint_goes_on_where_it_was():
    whole, begun, resumed = (LinearSchedule(steps=3) for _ in range(3))
    for _ in range(2):
        whole(GRAMIAN)
        begun(GRAMIAN)
    resumed.load_state_dict(begun.state_dict())
    assert torch.equal(resumed(GRAMIAN), whole(GRAMIAN))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "`steps` should be at least 1"),
        (
            {"steps": 2, "forget": (1.0, -1.0)},
            "`forget` should be finite and not negative: the sign is the objective's",
        ),
        ({"steps": 2, "retain": (float("nan"), 1.0)}, "`retain` should be finite and not negative"),
    ],
)
def test_settings_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        LinearSchedule(**arguments)
