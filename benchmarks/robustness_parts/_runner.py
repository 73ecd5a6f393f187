"""What the scripts of studies have in common: their options, and to do what is left."""

from __future__ import annotations

import argparse
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from robustness_parts._archive import pack, unpack
from robustness_parts._method import Method
from robustness_parts._units import Unit, do

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"


class Units(Protocol):
    """A study."""

    @property
    def folder(self) -> Path:
        """Where its units' results are."""

    def units(self) -> Iterable[Unit]:
        """All units, each after what it needs."""


def options(
    doc: str | None,
    name: str,
    commands: Sequence[str] = ("run", "estimate", "table", "reprint"),
    *,
    device: bool = False,
) -> argparse.ArgumentParser:
    """The options of all studies; with a device, of those that run on a GPU, too."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=commands)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.set_defaults(device="cpu", precision=None)
    if device:
        parser.add_argument("--device", default="cpu", help="`cuda`: several processes share one card well")
        parser.add_argument(
            "--precision",
            choices=["32-true", "bf16-mixed"],
            help="of fits and attacks; by default that of the setting on a GPU, and float32 on the CPU. Where a CPU has "
            "units for bfloat16 (`avx512_bf16`), `bf16-mixed` is the faster one; elsewhere it is the slower",
        )
    parser.add_argument("--retry", action="store_true", help="try again what ended in an error")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / name)
    parser.add_argument(
        "--archive",
        type=Path,
        help="finished units in one file: those in it are not done again, and what was done here is added at the end",
    )
    return parser


def prepare(arguments: argparse.Namespace) -> None:
    """Threads, precision, and silence: hundreds of fits would say the same."""
    torch.set_num_threads(arguments.threads)
    if arguments.device != "cpu":
        torch.set_float32_matmul_precision("high")  # TF32, for attacks: whole fits are in bfloat16 there
    quieten()


def quieten() -> None:
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)


def available(chosen: Iterable[Method], names: Mapping[str, Any], setting: str) -> tuple[list[Method], dict[str, str]]:
    """The methods meant for a setting that this version has all parts of, and why not, of the others."""
    meant = [method for method in chosen if setting in method.described.get("models", [setting])]
    missing = {method.name: reason for method in meant if (reason := method.missing(names))}
    return [method for method in meant if method.name not in missing], missing


def carry_out(
    study: Units,
    arguments: argparse.Namespace,
    show: Callable[[], None],
    units: Iterable[Unit] | None = None,
    missing: Mapping[str, str] | None = None,
) -> None:
    """Do what the command asks for.

    Args:
        study: Whose units they are.
        arguments: Of :func:`options`.
        show: Writes the results, and prints the table.
        units: What is to be done; all, if not given.
        missing: Methods that are left out, with reasons.
    """
    every = list(study.units())
    units = every if units is None else list(units)
    if arguments.archive is not None and arguments.archive.exists():
        to_do = [] if arguments.command == "table" else units
        print(
            f"{unpack(every, study.folder, arguments.archive, to_do)} units come from {arguments.archive}", flush=True
        )
    if arguments.retry:
        for unit in every:
            unit.forget_error()
    tell_left(units)
    for name, reason in (missing or {}).items():
        print(f"skipped: {name} ({reason})", flush=True)
    if arguments.command == "estimate":
        return
    try:
        if arguments.command != "table":
            do(units)
    finally:  # Ctrl-C included
        if arguments.archive is not None:
            pack(every, study.folder, arguments.archive)
    show()


def tell_left(units: Iterable[Unit]) -> None:
    """Say what is left, by kind, and how long it would take."""
    left = {unit.path: unit for unit in units if not unit.is_done}
    kinds: Counter[str] = Counter()
    for path, unit in left.items():
        kinds[path.stem.split("-")[0]] += unit.seconds  # type: ignore[assignment]  # a counter of seconds
    longest = max((unit.seconds for unit in left.values()), default=0.0)
    parts = "".join(f", {kind} {seconds / 60:.0f} min" for kind, seconds in kinds.items())
    print(f"{len(left)} units left, about {kinds.total() / 3600:.1f} hours in one process{parts}", end="")
    print(f"; the longest {longest / 60:.1f} min" if left else "", flush=True)
