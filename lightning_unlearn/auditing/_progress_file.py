"""What an audit has observed so far, on disk, so that one that was interrupted goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from lightning_unlearn.attacks import Attack
from lightning_unlearn.observation import NOT_ATTACKED, Cost, Failure, Observation
from lightning_unlearn.runtime import in_words, written_whole


@dataclass
class Part:
    """What was observed of one model.

    Args:
        weights: A hash of its weights.
        settings: A hash of the settings of each attack that is to be made.
        done: The same of each attack that has been made.
        observations: What was observed.
        failures: What failed.
        costs: What each look cost.
    """

    weights: int
    settings: dict[str, str]
    done: dict[str, str] = field(default_factory=dict)
    observations: list[Observation] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)

    def finish(self, attack: str) -> None:
        """``attack`` has come to its end."""
        self.done[attack] = self.settings[attack]

    def only_current(self) -> Part:
        """Without attacks that are no longer to be made, or have other settings now. Failures are tried again."""
        failed = {failure.attack for failure in self.failures}
        kept = {n for n, words in self.done.items() if words == self.settings.get(n) and n not in failed}
        if NOT_ATTACKED not in kept:
            return Part(self.weights, self.settings)
        done = {name: words for name, words in self.done.items() if name in kept}
        observations = [o for o in self.observations if o.attack in kept]
        costs = [cost for cost in self.costs if cost.attack in kept]
        return Part(self.weights, self.settings, done, observations, costs=costs)


class ProgressFile:
    """The parts of an audit.

    Args:
        path: Where they are kept.
        identity: What all of them depend on: audits and questions. A file of another identity is not used.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     file = ProgressFile(Path(folder) / "progress.json", "three questions")
        ...     file.part("unlearned", 7, {}).finish("none")
        ...     file.write()
        ...     again = ProgressFile(Path(folder) / "progress.json", "three questions").part("unlearned", 7, {})
        >>> list(again.done)
        ['none']
    """

    def __init__(self, path: Path, identity: str) -> None:
        self.path, self.identity = path, _digest(identity)
        self._parts: dict[str, Part] = {}
        if path.is_file() and (state := _read(path)).get("identity") == self.identity:
            self._parts = {subject: _part(row) for subject, row in state["parts"].items()}

    def done(self, subject: str, attacks: Mapping[str, Attack]) -> set[str]:
        """What need not be done again, if the weights of ``subject`` are still the same."""
        old = self._parts.get(subject)
        return set() if old is None else set(replace(old, settings=_every_setting(attacks)).only_current().done)

    def part(self, subject: str, weights: int, attacks: Mapping[str, Attack]) -> Part:
        """What was observed of ``subject``, if it has the same weights; else an empty part."""
        settings = _every_setting(attacks)
        old = self._parts.get(subject)
        new = Part(weights, settings)
        if old is not None and old.weights == weights:
            new = Part(weights, settings, old.done, old.observations, old.failures, old.costs).only_current()
        self._parts[subject] = new
        return new

    def write(self) -> None:
        """Write all parts. After a crash the file is whole, as it is or as it was."""
        state = {"identity": self.identity, "parts": {subject: asdict(part) for subject, part in self._parts.items()}}
        with written_whole(self.path) as new:
            new.write_text(json.dumps(state, default=str), encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    try:
        state: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # somebody else's file: it is written over when the first attack has ended
        return {}
    return state if isinstance(state, dict) else {}


def _part(row: dict[str, Any]) -> Part:
    pairs = ("bounds", "interval")
    observations = [
        Observation(**{**o, **{name: None if o[name] is None else tuple(o[name]) for name in pairs}})
        for o in row["observations"]
    ]
    failures = [Failure(**failure) for failure in row["failures"]]
    costs = [Cost(**cost) for cost in row["costs"]]
    return Part(row["weights"], row["settings"], row["done"], observations, failures, costs)


def _every_setting(attacks: Mapping[str, Attack]) -> dict[str, str]:
    return {NOT_ATTACKED: "", **{name: _digest(in_words(attack)) for name, attack in attacks.items()}}


def _digest(words: str) -> str:
    # Words may hold whole data sets, of an attacker who brings his own.
    return blake2b(words.encode(), digest_size=16).hexdigest()
