"""The tables of benchmarks/README.md are what its commands print from the committed results."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import pytest

README = {line.strip() for line in (Path(__file__).parents[3] / "benchmarks" / "README.md").read_text().splitlines()}
COMMANDS = [
    "tofu reprint",
    "robustness reprint --model bundled",
    "robustness reprint --model bundled --beyond",
    "robustness reprint --model smollm2",
    "which_weights reprint --model stories260k",
    "request_sequences reprint",
    "request_sequences reprint --model smollm2",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_each_row_that_is_printed_is_in_the_readme(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script, *arguments = command.split()
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    import_module(script).main()
    rows = [line.strip() for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(rows) > 4
    assert [row for row in rows if row not in README] == []


def test_what_is_beside_the_table_of_tofu_is_there_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["tofu", "reprint"])
    import_module("tofu").main()
    said = [line for line in capsys.readouterr().out.splitlines() if line and not line.startswith("|")]
    assert any("hours, beside what else ran" in line for line in said)
    assert [line for line in said if line.strip() not in README] == []
