"""The notebook of two pages runs from top to bottom: a model and its control, and how to forget a fact in it."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import sys
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from lightning_unlearn import FileRecords
from lightning_unlearn.cli._script import script
from lightning_unlearn.report import RobustnessReport

ROOT = Path(__file__).parents[1]
MAKE = runpy.run_path(str(ROOT / "examples" / "make_notebook.py"))
PAGE = "\n".join((ROOT / "docs" / page).read_text() for page in MAKE["PAGES"]["forget_a_fact.ipynb"])
NOTEBOOK = json.loads((ROOT / "examples" / "forget_a_fact.ipynb").read_text())
CELLS = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def test_every_block_that_can_run_is_a_cell_and_none_holds_output() -> None:
    languages = re.findall(r"^```(\w+)$", PAGE, flags=re.MULTILINE)
    assert languages.count("json") == 1  # rows that are shown, and compared below
    assert len(CELLS) == len(languages) - 1 > 6
    assert all(longer in PAGE for longer in SHORTER)
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in CELLS)


def test_continued_commands_are_one_line() -> None:
    cells = MAKE["_cells"]("```sh\none \\\n    --two\nthree\n```\n", ROOT)
    (cell,) = (c for c in cells if c["cell_type"] == "code")
    assert "".join(cell["source"]) == "!one --two\n!three"


def test_links_lead_somewhere_from_the_notebook_as_well() -> None:
    text = "".join("".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "markdown")
    targets = re.findall(r"\]\((?!http)([^)#]+)", text)
    assert len(targets) > 3
    assert [target for target in targets if not (ROOT / "examples" / target).exists()] == []


def run_cell(source: str, names: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """As Jupyter does, with as much of its own language as the notebook uses."""
    if source.startswith("%%writefile "):
        name, text = source.removeprefix("%%writefile ").split("\n", 1)
        Path(name).write_text(text)
    elif source.startswith("!"):
        for line in source.splitlines():
            monkeypatch.setattr(sys, "argv", shlex.split(line.removeprefix("!")))
            assert sys.argv[0] == "lightning-unlearn"
            script()
    else:
        exec(compile(source, "forget_a_fact.ipynb", "exec"), names)


SHORTER = {"max_epochs: 50": "max_epochs: 2", "max_epochs: 60}": "max_epochs: 1}", "--steps 300": "--steps 5"}
"""That it learns and forgets takes longer, and is shown elsewhere."""


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.filterwarnings("ignore")  # Jupyter shows them, and goes on
def test_it_runs_from_files_to_a_report_a_merged_model_and_an_audit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    for source in ("".join(cell["source"]) for cell in CELLS):
        run_cell(reduce(lambda text, one: text.replace(*one), SHORTER.items(), source), names, monkeypatch)

    shown = [json.loads(line) for line in re.findall(r"```json\n(.*?)\n```", PAGE, flags=re.DOTALL)[0].splitlines()]
    assert all(row in list(FileRecords("forget.jsonl").read()) for row in shown)
    report = RobustnessReport.load("runs/forgotten")
    assert {o.subject for o in report.observations} == {"original", "unlearned", "control"}
    assert report.data["forget"]["entities"] == 3
    found = {
        o.subject: o.value
        for o in report.observations
        if (o.metric, o.split, o.attack) == ("probability", "forget", "none")
    }
    assert found["original"] != found["unlearned"]

    merged = AutoModelForCausalLM.from_pretrained("runs/forgotten/model")
    assert not any("lora" in name for name, _ in merged.named_parameters())
    before = AutoModelForCausalLM.from_pretrained("your-org/your-model")
    assert not torch.equal(merged.model.layers[0].mlp.up_proj.weight, before.model.layers[0].mlp.up_proj.weight)
    audited = RobustnessReport.load("runs/forgotten/audit")
    assert {o.subject for o in audited.observations} == {"original", "unlearned", "control"}
    assert not audited.failures
