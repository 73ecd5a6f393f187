"""What a check hands to Lightning can be synchronised on any device."""

from __future__ import annotations

from typing import Any

import pytest
from _modules import SomebodysModule, loader, quiet

from lightning_unlearn import Bounded, GradientAscent, Quantize, RecoveryCheck, Unlearn


@pytest.mark.parametrize("way", ["validate", "fit"])
def test_values_are_logged_as_plain_numbers(way: str) -> None:
    """NCCL refuses tensors of the CPU; Lightning puts plain numbers on the device of the module."""
    given: list[Any] = []

    class Watched(SomebodysModule):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            """Nothing of its own."""

        def log_dict(self, dictionary: Any, *args: Any, **kwargs: Any) -> None:
            given.extend(value for key, value in dictionary.items() if key.startswith("recovery/"))
            super().log_dict(dictionary, *args, **kwargs)

    check = RecoveryCheck({"int4": Quantize(bits=4)}, probes={"forget": loader(seed=2, n=12)}, every_n_steps=1)
    unlearn = Unlearn(Bounded(GradientAscent(), bound=6.0), forget=loader(seed=2, n=12))
    if way == "validate":
        quiet(callbacks=[check]).validate(Watched(), loader(seed=3), verbose=False)
    else:
        quiet(callbacks=[unlearn, check], max_epochs=1).fit(Watched(), loader(seed=1), loader(seed=3))
    assert given
    assert {type(value) for value in given} == {float}
