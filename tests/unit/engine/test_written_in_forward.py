"""Which parameters a forward pass may write to: averages of others, and tables with a largest norm."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from lightning_unlearn.engine._written_in_forward import written_in_forward


def frozen(module: nn.Module) -> nn.Module:
    return module.requires_grad_(False)


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))


CASES: dict[str, tuple[Any, set[str]]] = {
    "nothing frozen": (lambda: {"a": mlp(), "b": mlp()}, set()),
    "query and key": (
        lambda: {"encoder_q": mlp(), "encoder_k": frozen(mlp())},
        {"encoder_k.0.weight", "encoder_k.0.bias", "encoder_k.1.weight", "encoder_k.1.bias"},
    ),
    "wrapped, one level deeper": (
        lambda: {"net": mlp(), "average": nn.ModuleDict({"module": frozen(mlp())})},
        {f"average.module.{i}.{kind}" for i in (0, 1) for kind in ("weight", "bias")},
    ),
    "lower layers frozen": (
        lambda: {"layers": nn.ModuleList([frozen(nn.Linear(4, 4)), nn.Linear(4, 4), nn.Linear(4, 4)])},
        set(),
    ),
    "a frozen backbone of other shapes": (lambda: {"body": frozen(nn.Linear(9, 9)), "head": nn.Linear(4, 2)}, set()),
    "a table with a largest norm": (lambda: {"t": nn.Embedding(3, 2, max_norm=1.0)}, {"t.weight"}),
}


@pytest.mark.parametrize("case", CASES)
def test_they_are_found_by_shape_and_name(case: str) -> None:
    make, expected = CASES[case]
    module = nn.ModuleDict(make())
    found = {id(t) for t in written_in_forward(module)}
    assert {name for name, p in module.named_parameters() if id(p) in found} == expected


def test_it_notices_when_parts_are_frozen_later() -> None:
    module = nn.ModuleDict({"fast": mlp(), "slow": mlp()})
    assert written_in_forward(module) == []
    frozen(module["slow"])
    assert len(written_in_forward(module)) == 4
    module["slow"] = frozen(nn.Linear(7, 7))
    assert written_in_forward(module) == []
