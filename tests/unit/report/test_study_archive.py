"""Finished units of a study in one file: they are not done again elsewhere, but for networks that are still needed."""

from __future__ import annotations

import lzma
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from robustness_parts._archive import pack, unpack
from robustness_parts._runner import carry_out, options
from robustness_parts._units import Found, Unit, do
from safetensors.torch import load_file, save_file


@dataclass(frozen=True)
class Study:
    """A network is taught, in a unit that another speaks of; it is fitted by two methods, and each is judged twice."""

    folder: Path
    done: list[str]

    def units(self) -> Iterator[Unit]:
        told = self._unit("told-original", weights=True)
        taught = self._unit("taught-0", told)
        yield from (told, taught)
        for method in ("npo", "ga"):
            fit = self._unit(f"{method}/fit-0", taught, weights=True)
            yield fit
            yield from (self._unit(f"{method}/judged-0-{judge}", fit) for judge in ("int4", "relearn"))

    def _unit(self, name: str, *needs: Unit, weights: bool = False) -> Unit:
        path = self.folder / f"{name}.json"

        def work() -> Found:
            self.done.append(name)
            if weights:
                save_file({"w": torch.zeros(1)}, path.with_suffix(".safetensors"))
            if "fit" in name:
                load_file(self.folder / "told-original.safetensors")  # an error, if the network is not there
            if "judged" in name:
                load_file(needs[0].path.with_suffix(".safetensors"))
            return {"value": len(name)}

        return Unit(path, work, needs, seconds=60)


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.json")}


def whole(folder: Path) -> Study:
    study = Study(folder, [])
    do(study.units())
    assert len(study.done) == 8
    return study


def test_a_finished_study_goes_on_elsewhere_without_doing_anything_again(tmp_path: Path) -> None:
    here = whole(tmp_path / "here")
    pack(here.units(), here.folder, tmp_path / "units.jsonl.xz")
    there = Study(tmp_path / "there", [])
    assert unpack(there.units(), there.folder, tmp_path / "units.jsonl.xz") == 8
    do(there.units())
    assert there.done == []
    assert [unit.found() for unit in there.units()] == [unit.found() for unit in here.units()]
    assert not list(there.folder.rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("missing", "again"),
    [
        # A judge asks for the network that he judges, and that one for what it was made of.
        (["npo/judged-0-int4"], ["told-original", "npo/fit-0", "npo/judged-0-int4"]),
        (["npo/fit-0", "npo/judged-0-relearn"], ["told-original", "npo/fit-0", "npo/judged-0-relearn"]),
        (
            ["ga/judged-0-int4", "ga/judged-0-relearn"],
            ["told-original", "ga/fit-0", "ga/judged-0-int4", "ga/judged-0-relearn"],
        ),
        # Of figures alone, others need nothing.
        (["taught-0"], ["told-original", "taught-0"]),
    ],
)
def test_what_is_missing_is_done_with_the_networks_that_it_needs(
    missing: list[str], again: list[str], tmp_path: Path
) -> None:
    here = whole(tmp_path / "here")
    for name in missing:
        (here.folder / name).with_suffix(".json").unlink()
    pack(here.units(), here.folder, tmp_path / "units.jsonl.xz")
    there = Study(tmp_path / "there", [])
    assert unpack(there.units(), there.folder, tmp_path / "units.jsonl.xz") == 8 - len({*again, *missing})
    do(there.units())
    assert there.done == again
    assert all("error" not in unit.found() for unit in there.units())


def test_nothing_begins_while_another_process_makes_the_network_again(tmp_path: Path) -> None:
    here = whole(tmp_path / "here")
    (here.folder / "npo" / "judged-0-int4.json").unlink()
    pack(here.units(), here.folder, tmp_path / "units.jsonl.xz")
    told, taught, fit, *_ = units = list(Study(tmp_path / "there", []).units())
    unpack(units, tmp_path / "there", tmp_path / "units.jsonl.xz")
    assert (told.is_done, taught.is_done, fit.is_ready) == (False, True, False)
    do([told])
    assert fit.is_ready


def test_weights_that_are_there_are_used(tmp_path: Path) -> None:
    here = whole(tmp_path / "here")
    (here.folder / "npo" / "judged-0-int4.json").unlink()
    pack(here.units(), here.folder, tmp_path / "units.jsonl.xz")
    assert unpack(here.units(), here.folder, tmp_path / "units.jsonl.xz") == 0
    do(here.units())
    assert here.done[8:] == ["npo/judged-0-int4"]


def test_errors_are_not_packed_and_what_was_packed_before_stays(tmp_path: Path) -> None:
    archive, broken = tmp_path / "units.jsonl.xz", tmp_path / "broken.json"
    here = whole(tmp_path)
    pack(list(here.units())[:3], tmp_path, archive)

    def fails() -> Found:
        raise RuntimeError("no")

    do([Unit(broken, fails)])
    pack([Unit(broken, fails), *list(here.units())[5:]], tmp_path, archive)
    lines = lzma.decompress(archive.read_bytes()).decode().splitlines()
    assert len(lines) == 6
    assert not any("broken" in line for line in lines)


def arguments(command: str, folder: Path, archive: Path | None = None) -> Namespace:
    words = [command, "--folder", str(folder), *([] if archive is None else ["--archive", str(archive)])]
    return options("doc", "study").parse_args(words)


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive, shown = tmp_path / "a" / "units.jsonl.xz", []
    here, there = Study(tmp_path / "here", []), Study(tmp_path / "there", [])

    def run(study: Study, command: str, **others: Any) -> str:
        carry_out(study, arguments(command, study.folder, archive), lambda: shown.append(command), **others)
        return capsys.readouterr().out

    assert "8 units left, about 0.1 hours in one process, told 1 min, taught 1 min, fit 2 min, judged 4 min" in run(
        here, "estimate", missing={"Strange": "no such part"}
    )
    assert here.done == shown == []
    assert not archive.exists()
    run(here, "run", units=list(here.units())[:5])
    assert (len(here.done), shown) == (5, ["run"])
    assert "4 units come from" in run(there, "estimate")  # the network that the second method starts from is gone
    assert there.done == []
    assert "skipped: Strange (no such part)" in run(there, "run", missing={"Strange": "no such part"})
    # The second method starts from the original, which is taught again.
    assert there.done == ["told-original", "ga/fit-0", "ga/judged-0-int4", "ga/judged-0-relearn"]
    assert run(Study(tmp_path / "third", []), "table").startswith("8 units come from")
    assert shown == ["run", "run", "table"]


@pytest.mark.parametrize("command", ["table", "run", "estimate"])
def test_weights_are_wanted_only_by_what_the_command_does(command: str, tmp_path: Path) -> None:
    """Costs, say, which were not measured, and are not asked for."""
    here, archive = whole(tmp_path / "here"), tmp_path / "units.jsonl.xz"
    pack(list(here.units())[:7], here.folder, archive)
    there = Study(tmp_path / "there", [])
    every = list(there.units())
    carry_out(
        there, arguments(command, there.folder, archive), lambda: None, units=every if command == "table" else every[:7]
    )
    assert there.done == []
    assert [unit.is_done for unit in every] == [True] * 7 + [False]


def test_an_interrupted_run_leaves_its_archive(tmp_path: Path) -> None:
    study, archive = Study(tmp_path / "here", []), tmp_path / "units.jsonl.xz"

    def stopped() -> Found:
        raise KeyboardInterrupt

    units = [*list(study.units())[:2], Unit(study.folder / "stopped.json", stopped)]
    with pytest.raises(KeyboardInterrupt):
        carry_out(study, arguments("run", study.folder, archive), lambda: None, units)
    assert len(lzma.decompress(archive.read_bytes()).splitlines()) == 2


def test_a_unit_that_hands_on_part_of_another_result_leaves_it_as_it_was(tmp_path: Path) -> None:
    first = Unit(tmp_path / "first.json", lambda: {"control": {"forget": [0.1]}})
    do([first])
    do([Unit(tmp_path / "second.json", lambda: first.found()["control"], (first,))])
    assert first.found()["control"] == {"forget": [0.1]}
