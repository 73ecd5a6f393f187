"""Gates: shares of what was known at the start, and what is no number passes none."""

from __future__ import annotations

from typing import Any

import pytest

from lightning_unlearn.requests import Entry, RequestGates, came_back


def figures(start: float = 0.8, after: Any = 0.1, retain: Any = 0.9, **more: Any) -> dict[str, Any]:
    return {"forget": {"start": start, "after": after}, "retain": {"start": 1.0, "after": retain}, **more}


EARLIER = [Entry(1, "request", "r1", "", "", "", "", figures())]


def failed(*args: Any, **kwargs: Any) -> list[str]:
    return RequestGates().failed("r2", figures(*args, **kwargs), EARLIER)


def test_what_is_forgotten_and_kept_passes() -> None:
    assert failed() == []


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"after": 0.41}, "was not forgotten: 51%"),
        ({"after": None}, "was not forgotten: nan%"),
        ({"retain": 0.89}, "must stay was lost: 89%"),
        ({"retain": None}, "must stay was lost: nan%"),
        ({"audited": {"r1": 0.19}}, "`r1` came back: by 11%"),
        ({"audited": {"r1": None}}, "`r1` came back: by nan%"),
    ],
    ids=str,
)
def test_each_gate_fails_by_itself(found: dict[str, Any], words: str) -> None:
    (only,) = failed(**found)
    assert words in only


def test_what_came_back_is_measured_from_what_was_left_then() -> None:
    assert came_back(figures(audited={"r1": 0.5, "r9": 0.7}), EARLIER) == {"r1": pytest.approx(0.5)}
    assert came_back(figures(audited={"r1": 0.05}), EARLIER) == {"r1": 0.0}
    assert came_back(figures(), EARLIER) == {}


def test_what_was_never_known_can_neither_stay_nor_come_back() -> None:
    assert failed(start=0.0, after=0.0) == []
    assert failed(start=0.0, after=0.1) != []


@pytest.mark.parametrize("name", ["left", "retained"])
def test_shares_are_shares(name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` should be between 0 and 1"):
        RequestGates(**{name: 1.5})
