"""A fit that was killed and resumed equals one that ran through: three of the forty moments of `benchmarks/kill.py`."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kill.py"


def load() -> Any:
    spec = importlib.util.spec_from_file_location("kill", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


KILL = load()
MOMENTS = {moment.place: moment for moment in KILL.MOMENTS}


def test_there_are_forty_moments_and_each_names_a_function() -> None:
    assert len(KILL.MOMENTS) == len(MOMENTS) == 40
    for moment in KILL.MOMENTS:
        module, _, path = moment.function.partition(":")
        found: Any = importlib.import_module(module)
        for name in path.split("."):
            found = getattr(found, name)
        assert callable(found)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("whole")
    assert KILL.in_a_process(lambda: KILL.fit(folder), folder / "log") == 0, (folder / "log").read_text()
    return KILL.result_of(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "from_step"),
    [
        ("teaching, the control is kept", None),
        ("checkpoint, bytes are written", 2),
        ("restore after relearning", 8),
    ],
)
def test_killed_and_resumed_equals_uninterrupted(
    place: str, from_step: int | None, expected: Any, tmp_path: Path
) -> None:
    found = KILL.killed_and_resumed(MOMENTS[place], expected, tmp_path)
    assert found["from_step"] == from_step
    assert KILL.is_equal(found), found


@pytest.mark.slow
def test_a_moment_that_never_comes_is_not_counted(expected: Any, tmp_path: Path) -> None:
    never = KILL.Moment("never", "os:write", 10_000)
    found = KILL.killed_and_resumed(never, expected, tmp_path)
    assert not found["killed"]
    assert not KILL.is_equal(found)
