from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

from safetensors.torch import load_model, save_model
from torch import nn

from lightning_unlearn.runtime import written_whole
from robustness_parts._criterion import chosen_rate, lead
from robustness_parts._fit import forget_, teach
from robustness_parts._judges import PANELS, Curve, Judge, curve, known
from robustness_parts._method import Method
from robustness_parts._setting import Setting
from robustness_parts._units import Found, Unit

TUNING_SEED = 100


@dataclass(frozen=True)
class Study:
    """One setting and its methods, as units of work in a folder.

    Args:
        setting: Which network, data and budget.
        methods: What is compared.
        seeds: Of the runs. Tuning has a seed and entities of its own.
        folder: Where the units' results are.
    """

    setting: Setting
    methods: tuple[Method, ...]
    seeds: tuple[int, ...]
    folder: Path

    def units(self) -> Iterator[Unit]:
        """All units, in an order in which each comes after what it needs."""
        yield self.taught("tune", TUNING_SEED)
        for method in self.methods:
            yield from self.trials(method)
        # Seed by seed, so that a study that is cut off has something to say about all methods.
        for seed in self.seeds:
            yield self.taught("test", seed)
            yield from self.judged_control(seed).values()
            for method in self.methods:
                yield self.fitted(method, seed)
                yield from self.judged(method, seed).values()

    def taught(self, world: str, seed: int) -> Unit:
        """The original and the control, in files beside what they know."""

        def work() -> Found:
            networks = teach(self.setting, world, seed)
            for name, network in networks.items():
                write(network, self._taught(name, world, seed))
            known = {name: self._knows(network, world) for name, network in networks.items()}
            return {**known, "cheap": self._cheap(networks["control"]) if world == "tune" else []}

        return Unit(self._here / f"taught-{world}-{seed}.json", work, seconds=900 * self.setting.seconds)

    def trials(self, method: Method) -> list[Unit]:
        """One fit for each learning rate, looked at by the cheap judge."""
        taught, seconds = self.taught("tune", TUNING_SEED), self._fit_seconds(method)
        paths = {rate: self._path(method, f"tuned-{rate:g}") for rate in self.rates(method)}
        return [
            Unit(path, self._trial(method, rate, taught), (taught,), seconds=seconds) for rate, path in paths.items()
        ]

    def rates(self, method: Method) -> tuple[float, ...]:
        """The learning rates that are tried: as many for each method, around where it works."""
        return tuple(rate * method.described.get("rate", 1.0) for rate in self.setting.rates)

    def fitted(self, method: Method, seed: int) -> Unit:
        """The unlearned network, in a file beside what it spent."""

        def work() -> Found:
            network = load(self.setting, self._taught("original", "test", seed))
            rate = chosen_rate([unit.found() for unit in self.trials(method)], self.setting.keep)
            found = self._forget(network, method, rate, "test", seed)
            write(network, self._weights(method, seed))
            return found

        seconds = self._fit_seconds(method)
        # A rate that was too high for a method is a trial that failed, not the end of the method.
        trials = tuple(self.trials(method))
        return Unit(self._path(method, f"fit-{seed}"), work, (self.taught("test", seed),), trials, seconds)

    def _forget(self, network: nn.Module, method: Method, rate: float, world: str, seed: int) -> Found:
        return forget_(network, method, rate, self.setting, world, seed)

    def _fit_seconds(self, method: Method) -> float:
        passes: float = method.described.get("passes", 2)
        return passes * self.setting.steps * self.setting.seconds

    def judged(self, method: Method, seed: int) -> dict[str, Unit]:
        """What each judge brings back."""
        weights, need = self._weights(method, seed), self.fitted(method, seed)
        return {name: self._judgement(method, name, seed, weights, need) for name in self.panel}

    def judged_control(self, seed: int) -> dict[str, Unit]:
        """What each judge teaches a network that never knew."""
        weights, need = self._taught("control", "test", seed), self.taught("test", seed)
        return {name: self._judgement(None, name, seed, weights, need) for name in self.panel}

    @cached_property
    def panel(self) -> dict[str, Judge]:
        """The judges by name, but for those whose attack this version of the package does not have."""
        return {name: judge for name, judge in PANELS[self.setting.panel].items() if judge.exists}

    @property
    def cheap(self) -> dict[str, Judge]:
        """Who looks at the trials."""
        return PANELS["cheap"]

    def _judgement(self, method: Method | None, judge: str, seed: int, weights: Path, need: Unit) -> Unit:
        described = self.panel[judge]

        def work() -> Found:
            return {"curve": curve(shared(self.setting, weights), described, self.setting, self.setting.world("test"))}

        words = f"judged-{seed}-{plain(judge)}-{digest(asdict(described))}"
        seconds = described.arguments.get("steps", 1) * self.setting.seconds
        return Unit(self._path(method, words), work, (need,), seconds=seconds)

    def _trial(self, method: Method, rate: float, taught: Unit) -> Callable[[], Found]:
        def work() -> Found:
            network = load(self.setting, self._taught("original", "tune", TUNING_SEED))
            found = self._forget(network, method, rate, "tune", TUNING_SEED)
            known = taught.found()
            return {**found, "original retain": known["original"]["retain"], "lead": self._lead(network, known)}

        return work

    def _lead(self, network: nn.Module, known: Found) -> float:
        """Of the cheap judge over one with a network that never knew."""
        return max(lead(one, other) for one, other in zip(self._cheap(network), known["cheap"], strict=True))

    def _cheap(self, network: nn.Module) -> list[Curve]:
        world = self.setting.world("tune")
        return [curve(network, judge, self.setting, world) for judge in self.cheap.values()]

    def _taught(self, name: str, world: str, seed: int) -> Path:
        return self._here / f"taught-{world}-{seed}-{name}.safetensors"

    def _knows(self, network: nn.Module, world: str) -> dict[str, list[float]]:
        asked = self.setting.world(world)
        rows = {"forget": asked.forget, "retain": asked.looked_at, "unseen": asked.unseen}
        return {name: known(network, self.setting, some) for name, some in rows.items() if some}

    def _weights(self, method: Method, seed: int) -> Path:
        return self._path(method, f"fit-{seed}").with_suffix(".safetensors")

    def _path(self, method: Method | None, words: str) -> Path:
        name = "control" if method is None else f"{plain(method.name)}-{digest(method.described)}"
        return self._here / name / f"{words}.json"

    @cached_property
    def _here(self) -> Path:
        # Other settings are another folder, as other descriptions of a method are: nothing stale is ever read.
        return self.folder / digest(self.setting.numbers())


def load(setting: Setting, weights: Path) -> nn.Module:
    network = setting.start(0)
    load_model(network, weights)
    return network.to(setting.device)


shared = lru_cache(maxsize=1)(load)  # for judges, who come one after the other and leave it as it was


def write(network: nn.Module, path: Path) -> None:
    with written_whole(path) as new:
        save_model(network, str(new))


def digest(value: Any) -> str:
    """A short name for plain data."""
    return blake2b(json.dumps(value, sort_keys=True, default=str).encode(), digest_size=3).hexdigest()


def plain(words: str) -> str:
    """A name as a file's."""
    return "".join(c if c.isalnum() or c == "." else "-" for c in words)
