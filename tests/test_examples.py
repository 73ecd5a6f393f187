"""The examples run as they stand: on the tiny model, for a few steps."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from _pages import DOCS, ROOT, RUN, blocks
from _ranks import run_ranks

from lightning_unlearn import RobustnessReport

EXAMPLES = ROOT / "examples"
SCRIPTS = {"plain_trainer.py", "ddp.py", "fsdp2.py", "lightning_cli/train.py", "hydra/train.py"}
SCRIPTS |= {"hugging_face_trainer.py", "fabric_loop.py", "fabric_by_hand.py"}
pytestmark = [pytest.mark.timeout(1200), pytest.mark.filterwarnings("ignore")]  # who tries them sees them, and goes on


def main_of(name: str) -> Callable[..., Any]:
    main: Callable[..., Any] = runpy.run_path(str(EXAMPLES / name))["main"]
    return main


def known(folder: str) -> dict[tuple[str, str], float]:
    """Probability of the right answer, by subject and split."""
    found = RobustnessReport.load(folder).observations
    return {(o.subject, o.split): o.value for o in found if (o.metric, o.attack) == ("probability", "none")}


def test_readme_tells_of_every_example_and_no_other() -> None:
    told = (EXAMPLES / "README.md").read_text()
    here = {str(path.relative_to(EXAMPLES)) for path in EXAMPLES.rglob("*.py")} - {"make_notebook.py"}
    assert here == SCRIPTS
    for name in SCRIPTS | {path.name for path in EXAMPLES.glob("*.ipynb")}:
        assert f"]({Path(name).parts[0]})" in told


MAKE = runpy.run_path(str(EXAMPLES / "make_notebook.py"))


@pytest.mark.parametrize("name", MAKE["PAGES"])
def test_each_notebook_is_its_pages(name: str) -> None:
    """Which is run from top to bottom: `test_docs.py`, `test_forget_a_fact.py`."""
    pages = [DOCS / page for page in MAKE["PAGES"][name]]
    found = json.loads((EXAMPLES / name).read_text())
    assert found == MAKE["notebook"](*pages), "call `python examples/make_notebook.py`"
    code = [cell for cell in found["cells"] if cell["cell_type"] == "code"]
    shown = [language for page in pages for language, _ in blocks(page.read_text())]
    assert len(code) == len([language for language in shown if language in RUN]) > 2


def test_there_is_no_other_notebook() -> None:
    assert {path.name for path in EXAMPLES.glob("*.ipynb")} == set(MAKE["PAGES"])


@pytest.mark.slow
def test_plain_trainer_forgets_and_keeps() -> None:
    main_of("plain_trainer.py")()
    found = known("runs/plain_trainer")
    assert found["unlearned", "forget"] < 0.5 * found["original", "forget"]
    assert found["unlearned", "retain"] > 0.8 * found["original", "retain"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hugging_face_trainer", "fabric_loop"])
def test_other_peoples_loops_forget_and_report(name: str) -> None:
    main_of(f"{name}.py")()
    found = known(f"runs/{name}")
    assert found["unlearned", "forget"] < 0.8 * found["original", "forget"]
    assert found["unlearned", "retain"] > 0.8 * found["original", "retain"]
    assert "int4" in {o.attack for o in RobustnessReport.load(f"runs/{name}").observations}


@pytest.mark.slow
def test_fabric_by_hand_raises_the_loss_on_what_must_go() -> None:
    main = main_of("fabric_by_hand.py")
    before, after = main(steps=0), main(steps=10)
    assert after["as it is"] > before["as it is"]
    assert after.keys() == {"as it is", "in 4 bits"}
    assert after["in 4 bits"] != after["as it is"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_launch_scripts_run_in_two_processes(name: str) -> None:
    main = main_of(f"{name}.py")
    run_ranks(lambda rank, world_size: main(["--devices", "2", "--max-steps", "2"]).global_step, world_size=2)
    assert {"original", "unlearned"} == {subject for subject, _ in known(f"runs/{name}")}


def shown_in_the_tutorial(name: str) -> str:
    page = (DOCS / "tutorials" / "lightning-cli.md").read_text()
    (text,) = (text for _, text in blocks(page) if text.startswith(f"# {name}\n"))
    return text.removeprefix(f"# {name}\n")


@pytest.mark.parametrize("name", ["train.py", "fit.yaml", "forget.yaml"])
def test_the_lightning_cli_project_is_that_of_the_tutorial(name: str) -> None:
    """Where it is run: `test_docs.py`."""
    assert (EXAMPLES / "lightning_cli" / name).read_text() == shown_in_the_tutorial(name)


CONF = EXAMPLES / "hydra" / "conf"
CHOICES = {group: sorted(path.stem for path in (CONF / group).glob("*.yaml")) for group in ("unlearn", "attack")}


def targets(value: Any) -> set[str]:
    """All `_target_` of a configuration."""
    if isinstance(value, dict):
        own = {value["_target_"]} if "_target_" in value else set()
        return own.union(*map(targets, value.values()))
    return set().union(*map(targets, value)) if isinstance(value, list) else set()


def test_every_target_of_the_hydra_template_exists() -> None:
    """Without Hydra, too."""
    named = set().union(*(targets(yaml.safe_load(path.read_text())) for path in CONF.rglob("*.yaml")))
    assert len(named) > 8
    for target in named:
        module, _, name = target.rpartition(".")
        assert hasattr(import_module(module), name), target


@pytest.mark.slow
@pytest.mark.parametrize(("unlearn", "attack"), [("npo", "quick"), ("sim_npo", "quick"), ("under_relearn", "thorough")])
def test_the_hydra_template_runs_with_every_choice(unlearn: str, attack: str) -> None:
    if find_spec("hydra") is None:
        pytest.skip("hydra-core is not installed")
    from hydra import compose, initialize_config_dir

    assert unlearn in CHOICES["unlearn"]
    assert attack in CHOICES["attack"]
    with initialize_config_dir(str(CONF), version_base=None):
        config = compose("config", [f"unlearn={unlearn}", f"attack={attack}", "trainer.max_steps=2"])
    fit = runpy.run_path(str(EXAMPLES / "hydra" / "train.py"))["fit"]
    assert fit(config).global_step == 2
    assert "_target_" in RobustnessReport.load("runs/hydra").config
