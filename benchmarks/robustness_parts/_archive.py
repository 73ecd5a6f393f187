"""The units of a study that are done, in one file: it goes on where there are none of them, and others can look into it."""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lightning_unlearn.runtime import written_whole
from robustness_parts._units import Unit


def pack(units: Iterable[Unit], folder: Path, archive: Path) -> None:
    """Write what is done, errors left out, a line for each unit; what is in the archive already and not here stays in it."""
    lines = _lines(archive) if archive.exists() else {}
    for unit in units:
        if unit.is_done and "error" not in unit.found():
            lines[str(unit.path.relative_to(folder))] = unit.found()
    text = "".join(json.dumps({"unit": name, **found}) + "\n" for name, found in sorted(lines.items()))
    archive.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(archive) as new:
        new.write_bytes(lzma.compress(text.encode()))


def unpack(units: Iterable[Unit], folder: Path, archive: Path, to_do: Iterable[Unit] | None = None) -> int:
    """Put each unit of an archive where it was, unless weights are still wanted of it: those have to be made again.

    An archive holds no weights, so a network is taught, or unlearned, once more where something is left to do with it.

    Args:
        units: Of the study, each after what it needs.
        folder: Of the study.
        archive: What :func:`pack` wrote.
        to_do: Units that will be done if they are missing, for which weights may be wanted; all, if not given.

    Returns:
        How many units there are in the folder now that were not before.
    """
    lines, units = _lines(archive), list({unit.path: unit for unit in units}.values())
    known = {unit.path: lines.get(str(unit.path.relative_to(folder))) for unit in units}
    chosen = {unit.path for unit in (units if to_do is None else to_do)}
    put = [unit for unit in _usable(units, known, chosen) if not unit.is_done]
    for unit in put:
        unit.path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(unit.path) as new:
            new.write_text(json.dumps(known[unit.path]))
    return len(put)


def _usable(units: list[Unit], known: dict[Path, Any], to_do: set[Path]) -> Iterator[Unit]:
    wanted: set[Path] = set()  # results whose weights must be there, since something is left to do with them
    for unit in reversed(units):
        found = unit.found() if unit.is_done else known[unit.path]
        files = None if found is None else found.get("files")  # older results do not say which
        there = files is not None and all((unit.path.parent / name).exists() for name in files)
        usable = found is not None and (there or unit.path not in wanted)
        if usable:
            yield unit
        # What has no weights of its own speaks of those of others.
        if (unit.path in wanted and not (usable and files)) or (unit.path in to_do and not usable):
            wanted |= {need.path for need in unit.needs}


def _lines(archive: Path) -> dict[str, dict[str, Any]]:
    lines = map(json.loads, lzma.decompress(archive.read_bytes()).splitlines())
    return {line.pop("unit"): line for line in lines}
