"""The budget of the studies: what `DisruptionBudget(on_exceed="restore")` gives a user, in other code."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import median

from robustness_parts._fit import forget_
from robustness_parts._method import Method
from robustness_parts._settings import SETTINGS
from torch.testing import assert_close

SETTING = replace(SETTINGS["bundled"], steps=12, every=1)
ASCENT = {"unlearn": {"objective": {"GradientAscent": {}}}}


def test_what_a_study_keeps_a_user_gets() -> None:
    network = SETTING.start(0)
    start = {name: value.clone() for name, value in network.state_dict().items()}

    def fitted(method: Method, kl: float) -> dict[str, object]:
        network.load_state_dict(start)
        found = forget_(network, method, 1e-3, replace(SETTING, kl=kl), "test", 0)
        return {**found, **{name: value.clone() for name, value in network.state_dict().items()}}

    free = fitted(Method("ascent", ASCENT), math.inf)
    curve = dict(free["disruption curve"])  # type: ignore[call-overload]
    kl = median(curve.values())
    study = fitted(Method("ascent", ASCENT), kl)
    ours = {"DisruptionBudget": {"neutral": "$neutral", "kl": kl, "every": 1, "on_exceed": "restore", "batches": 64}}
    user = fitted(Method("with ours", {**ASCENT, "callbacks": [ours]}), math.inf)
    assert study["steps"] == max(step for step, spent in curve.items() if spent <= kl)
    assert 0 < study["steps"] < free["steps"] == user["steps"] == 12
    assert user["disruption"] == study["disruption"] == curve[study["steps"]]
    for name in start:
        assert_close(user[name], study[name], rtol=0, atol=0)
