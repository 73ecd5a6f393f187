"""The command ``lightning-unlearn requests``: one deletion request after another, with a ledger."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from safetensors.torch import save_file

from lightning_unlearn.cli._configured_fit import ConfiguredFit
from lightning_unlearn.requests import (
    AdaptersAlone,
    Request,
    RequestGates,
    RequestSequence,
    SequenceFolder,
    WholeWeights,
    in_effect,
    read_requests,
    write_sequence_report,
)
from lightning_unlearn.runtime import written_whole

_ABOUT = (
    "Carry out deletion requests, one fit each, and write what was done into a ledger. For example: lightning-unlearn "
    "requests --config base.yaml --requests requests.jsonl --folder runs/requests. Each row of the file has the name of its "
    "request in the field `request`. Killed at any moment, it goes on when the same command is given again. All other "
    "arguments are those of `lightning-unlearn fit`."
)
_KEEPING = {"weights": WholeWeights, "adapters": AdaptersAlone}


def run_requests(arguments: Sequence[str]) -> None:
    """Run ``lightning-unlearn requests``."""
    parser = _parser()
    chosen, others = parser.parse_known_args(arguments)
    if chosen.verify is not None:
        return _verify(chosen)
    if chosen.requests is None and chosen.undo is None:
        parser.error("--requests should name a file with requests, unless --undo or --verify is given")
    fit = ConfiguredFit(others)
    sequence = RequestSequence(
        chosen.folder,
        fit,
        fit.retain,
        fit.encoding,
        keeping=_KEEPING[chosen.keep](),
        gates=RequestGates(chosen.left, chosen.returned, chosen.retained),
        every=chosen.every,
        batch_size=chosen.batch_size,
        device=chosen.device,
    )
    if chosen.undo is not None:
        return _undo(sequence, chosen)
    _run(sequence, _requests(chosen, fit))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("lightning-unlearn requests", description=_ABOUT, allow_abbrev=False)
    add = parser.add_argument
    gates = RequestGates()
    add("--requests", help="a file of rows, each with the name of its request: JSON Lines, CSV, and so on")
    add("--field", default="request", help="the field with the name of the request (request)")
    add("--folder", default="runs/requests", help="where ledger, weights and reports go (runs/requests)")
    add("--keep", choices=list(_KEEPING), default="weights", help="what is kept of each request (weights)")
    add("--every", type=int, default=5, help="after how many requests all are looked at again (5)")
    add("--left", type=float, default=gates.left, help="gate: share of a request that may be left")
    add("--returned", type=float, default=gates.returned, help="gate: share of an earlier one that may come back")
    add("--retained", type=float, default=gates.retained, help="gate: share of what must stay that has to")
    add("--batch_size", type=int, default=8, help="rows per forward pass when looking (8)")
    add("--device", default="cpu", help="where it is looked at (cpu)")
    add("--undo", metavar="REQUEST", help="go back to the weights after this request; `` is the start")
    add("--output", help="with --undo: a .safetensors file to write these weights to")
    add(
        "--verify",
        nargs="?",
        const="",
        metavar="HEAD",
        help="only check the ledger; HEAD is the hash of its last entry",
    )
    return parser


def _requests(chosen: argparse.Namespace, fit: ConfiguredFit) -> list[Request]:
    columns = {name: getattr(fit.forget, name) for name in ("question", "answer", "chat", "answers", "paraphrase")}
    # A number of rows says who is meant in the configuration's own file alone.
    entity = fit.forget.entity if isinstance(fit.forget.entity, str) else None
    return read_requests(chosen.requests, field=chosen.field, entity=entity, **columns)


def _run(sequence: RequestSequence, requests: list[Request]) -> None:
    entries = sequence.run(requests)
    report = write_sequence_report(sequence.folder.path)
    failed = [f"entry {entry.number}: {words}" for entry in in_effect(entries) for words in entry.failed]
    sys.stdout.write("".join(f"{line}\n" for line in [*failed, f"Head of the ledger: {entries[-1].hash}", str(report)]))
    if failed:
        sys.exit(1)


def _undo(sequence: RequestSequence, chosen: argparse.Namespace) -> None:
    weights = sequence.undo(chosen.undo)
    if chosen.output:
        with written_whole(chosen.output) as new:
            save_file(weights, new)
    sys.stdout.write(
        f"The weights after `{chosen.undo}` are in use again. Head of the ledger: {sequence.folder.ledger.head}\n"
    )


def _verify(chosen: argparse.Namespace) -> None:
    files = SequenceFolder(chosen.folder)
    number, head = len(files.checked_entries()), files.ledger.head
    if chosen.verify not in ("", head):
        raise ValueError(
            f"The last entry of `{files.ledger.path}` should have the hash {chosen.verify}. Found {head}: lines were cut "
            "off or added since it was noted."
        )
    sys.stdout.write(f"{number} entries, each following on the one before. Head of the ledger: {head}\n")
