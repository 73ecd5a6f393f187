from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from lightning_unlearn.requests._digest import as_line, digest_of, weights_digest
from lightning_unlearn.requests._ledger import Entry, Ledger
from lightning_unlearn.requests._weights import Weights
from lightning_unlearn.runtime import remove_leftovers, writable_folder, written_whole


class SequenceFolder:
    """The files of a sequence of requests: a ledger, weights by number of the entry, settings by their hash, costs.

    Args:
        path: Their folder.

    Example:
        >>> files = SequenceFolder("runs/requests")
        >>> files.ledger.path.name, files.weights_of(3).name
        ('ledger.jsonl', '0003.safetensors')
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        self.ledger = Ledger(self.path / "ledger.jsonl")

    def writable(self) -> Path:
        """Make it, if need be, and remove what killed processes left."""
        for name in ("weights", "configurations", "requests"):
            remove_leftovers(writable_folder(self.path / name))
        return writable_folder(self.path)

    def weights_of(self, number: int) -> Path:
        """Where the weights of an entry are."""
        return self.path / "weights" / f"{number:04d}.safetensors"

    def of_request(self, number: int, name: str) -> Path:
        """A folder for what is kept of a request beside its weights."""
        path = self.path / "requests" / f"{number:04d}-{re.sub(r'[^A-Za-z0-9._-]+', '_', name)[:40]}"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def checked_entries(self) -> list[Entry]:
        """The entries of the ledger.

        Raises:
            ValueError: If a line or the settings of an entry were changed, or there are weights of entries that it does not
                have.
        """
        entries = self.ledger.entries()
        for digest in sorted({entry.configuration for entry in entries if entry.configuration}):
            self._refuse_other_settings(self.path / "configurations" / f"{digest}.json")
        found = sorted(int(path.stem) for path in (self.path / "weights").glob("[0-9]*.safetensors"))
        # Weights are written right before their entry: those of one entry more are of a process that was killed.
        if found and found[-1] > len(entries):
            raise ValueError(
                f"`{self.ledger.path}` should have an entry for all weights beside it. Found {len(entries)} entries, and "
                f"the weights of entry {found[-1]}: lines were cut off its end. Restore the file from a copy."
            )
        return entries

    def start_weights(self) -> Weights:
        """Those before the first request."""
        try:
            weights: Weights = load_file(self.weights_of(0))
        except (OSError, SafetensorError) as error:
            raise ValueError(f"`{self.weights_of(0)}` should hold the weights of the start. Found: {error}") from error
        self.refuse_other_weights(weights, self.ledger.entries()[0])
        return weights

    def refuse_other_weights(self, weights: Weights, entry: Entry) -> None:
        """Refuse weights whose hash is not the one in the ledger."""
        if weights_digest(weights) != entry.after:
            what = f"after `{entry.request}`" if entry.request else "of the start"
            raise ValueError(
                f"The weights {what} should be those of the ledger. Found others in `{self.path / 'weights'}`: a file was "
                "changed, or a merge gives other bits on this machine. Restore the folder from a copy."
            )

    def _refuse_other_settings(self, path: Path) -> None:
        """Refuse settings whose hash is not the one in their name, and in the ledger."""
        with suppress(FileNotFoundError):
            try:
                found = digest_of(json.loads(path.read_text(encoding="utf-8")))
            except ValueError:
                found = "no JSON"
            if found != path.stem:
                raise ValueError(
                    f"`{path}` should hold the settings that it is named for, by their hash. Found others ({found}): it was "
                    "changed. Restore it from a copy."
                )

    def refuse_other_keeping(self, entries: Sequence[Entry], keeping: str) -> None:
        """Refuse to read what is kept of requests as if it were something else."""
        for entry in entries:
            path = self.path / "configurations" / f"{entry.configuration}.json"
            kept = json.loads(path.read_text(encoding="utf-8"))["keeping"] if path.exists() else keeping
            if kept != keeping:
                raise ValueError(
                    f"What is kept of requests in `{self.path}` should be the same for all of them. Found `{kept}` of "
                    f"`{entry.request}`, and `{keeping}` now. Use `keeping={kept}`; in the shell, `--keep adapters` or "
                    "`--keep weights`."
                )

    def keep_configuration(self, settings: Mapping[str, Any]) -> str:
        """Write settings to a file named for their hash, and return it."""
        settings = json.loads(as_line(settings))  # as they will be read: names are texts there
        digest = digest_of(settings)
        path = self.path / "configurations" / f"{digest}.json"
        if not path.exists():
            with written_whole(path) as new:
                new.write_text(json.dumps(settings, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        return digest

    def add_cost(self, number: int, request: str, seconds: float) -> None:
        """Note what a request took. Beside the ledger: times are others in each run."""
        line = as_line({"number": number, "request": request, "seconds": round(seconds, 3)})
        with (self.path / "costs.jsonl").open("a", encoding="utf-8") as file:
            file.write(f"\n{line}\n")  # the last line may have been cut off when its process was killed

    def costs(self) -> dict[int, float]:
        """Seconds, by number of the entry."""
        path = self.path / "costs.jsonl"
        found = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            with suppress(ValueError, KeyError, TypeError):
                cost = json.loads(line)
                found[cost["number"]] = cost["seconds"]
        return found
