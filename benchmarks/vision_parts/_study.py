from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from robustness_parts._method import Method
from robustness_parts._study import digest, plain, write
from robustness_parts._units import Found, Unit
from safetensors.torch import load_model
from torch import nn

from vision_parts._fit import forget, teach
from vision_parts._judges import PANEL, curve, distance, halves, known, probability, weight_distance
from vision_parts._world import Setting, World

TUNING_SEED = 100
COMPARED = ("forget", "retain", "test", "membership")
"""What a network should have in common with one that was retrained."""


@dataclass(frozen=True)
class Study:
    """One setting and its methods, as units of work in a folder.

    Args:
        setting: Which network and images.
        kinds: Which kinds of requests.
        methods: What is compared.
        seeds: Of the runs. Tuning has a seed, and a class to forget, of its own.
        folder: Where the units' results are.
    """

    setting: Setting
    kinds: tuple[str, ...]
    methods: tuple[Method, ...]
    seeds: tuple[int, ...]
    folder: Path

    def units(self) -> Iterator[Unit]:
        """All units, in an order in which each comes after what it needs."""
        for kind in self.kinds:
            yield self.taught(kind, TUNING_SEED)
            for method in self.methods:
                yield from self.trials(kind, method)
        # Seed by seed, so that a study that is cut off has something to say about all methods.
        for seed in self.seeds:
            for kind in self.kinds:
                yield self.taught(kind, seed)
                yield self.judged(kind, None, seed)
                for method in self.methods:
                    yield self.fitted(kind, method, seed)
                    yield self.judged(kind, method, seed)

    def taught(self, kind: str, seed: int) -> Unit:
        """The original and the retrained network, in files beside what they know."""

        def work() -> Found:
            world, networks = self.world(kind, seed), teach(self.world(kind, seed), seed)
            for name, network in networks.items():
                write(network, self._taught(kind, name, seed))
            found = {name: self._told(network, networks, world) for name, network in networks.items()}
            return dict(found)

        steps = 2 * self.setting.teach["epochs"] * self.setting.size / self.setting.teach["batch_size"]
        return Unit(self._here(kind) / f"taught-{seed}.json", work, seconds=steps * self.setting.seconds)

    def trials(self, kind: str, method: Method) -> list[Unit]:
        """One fit for each rate."""
        need, seconds = self.taught(kind, TUNING_SEED), self._fit_seconds(method)

        def unit(rate: float) -> Unit:
            def work() -> Found:
                return self._forget(kind, method, rate, TUNING_SEED)

            return Unit(self._path(kind, method, f"tuned-{rate:g}"), work, (need,), seconds=seconds)

        return [unit(rate) for rate in method.described.get("rates", self.setting.rates)]

    def fitted(self, kind: str, method: Method, seed: int) -> Unit:
        """The unlearned network, in a file beside what it knows."""

        def work() -> Found:
            tried = {
                trial["rate"]: gap(trial["known"], self.retrained(kind, TUNING_SEED))
                for trial in self._worked(kind, method)
            }
            rate = min(tried, key=tried.__getitem__)
            return self._forget(kind, method, rate, seed, self._weights(kind, method, seed))

        trials, seconds = tuple(self.trials(kind, method)), self._fit_seconds(method)
        return Unit(self._path(kind, method, f"fit-{seed}"), work, (self.taught(kind, seed),), trials, seconds)

    def rate(self, kind: str, method: Method) -> float:
        """The one whose trial is nearest to the retrained network."""
        wanted = self.retrained(kind, TUNING_SEED)
        best = min(self._worked(kind, method), key=lambda trial: gap(trial["known"], wanted))
        return float(best["rate"])

    def judged(self, kind: str, method: Method | None, seed: int) -> Unit:
        """What each judge brings back; of the retrained network, if there is no method."""
        weights = self._taught(kind, "retrained", seed) if method is None else self._weights(kind, method, seed)
        need = self.taught(kind, seed) if method is None else self.fitted(kind, method, seed)

        def work() -> Found:
            world, network = self.world(kind, seed), self._load(kind, weights)
            before = probability(network, halves(world.batches("forget", self.setting.batch[0]))[1])
            return {"before": before, **{name: curve(network, judge, world) for name, judge in PANEL.items()}}

        words = f"judged-{seed}-{digest({name: asdict(judge) for name, judge in PANEL.items()})}"
        return Unit(self._path(kind, method, words), work, (need,), seconds=70 * self.setting.seconds)

    def retrained(self, kind: str, seed: int) -> Found:
        """What a network that was retrained knows."""
        found: Found = self.taught(kind, seed).found()["retrained"]
        return found

    def world(self, kind: str, seed: int) -> World:
        return World(self.setting, kind, "tune" if seed == TUNING_SEED else "test", seed)

    def _forget(self, kind: str, method: Method, rate: float, seed: int, to: Path | None = None) -> Found:
        world = self.world(kind, seed)
        networks = {name: self._load(kind, self._taught(kind, name, seed)) for name in ("original", "retrained")}
        network = forget(self._load(kind, self._taught(kind, "original", seed)), method, rate, world, seed)
        if to is not None:
            write(network, to)
        return {"rate": rate, "known": self._told(network, networks, world)}

    def _told(self, network: nn.Module, networks: dict[str, nn.Module], world: World) -> dict[str, Any]:
        retrained, original = networks["retrained"], networks["original"]
        return {
            **known(network, world),
            "divergence": distance(network, retrained, world),
            "weights": weight_distance(network, retrained, original),
        }

    def _worked(self, kind: str, method: Method) -> list[Found]:
        trials = [unit.found() for unit in self.trials(kind, method)]
        worked = [trial for trial in trials if "error" not in trial]
        if not worked:
            raise ValueError(f"At least one trial should have worked. Found {[trial['error'] for trial in trials]}.")
        return worked

    def _fit_seconds(self, method: Method) -> float:
        steps: int = method.described.get("steps", self.setting.steps)
        return (method.described.get("passes", 1.6) * steps + 60) * self.setting.seconds

    def _load(self, kind: str, weights: Path) -> nn.Module:
        network = self.setting.start(kind, 0)
        load_model(network, weights)
        return network

    def _taught(self, kind: str, name: str, seed: int) -> Path:
        return self._here(kind) / f"taught-{seed}-{name}.safetensors"

    def _weights(self, kind: str, method: Method, seed: int) -> Path:
        return self._path(kind, method, f"fit-{seed}").with_suffix(".safetensors")

    def _path(self, kind: str, method: Method | None, words: str) -> Path:
        name = "retrained" if method is None else f"{plain(method.name)}-{digest(method.described)}"
        return self._here(kind) / name / f"{words}.json"

    def _here(self, kind: str) -> Path:
        return self._root / kind

    @cached_property
    def _root(self) -> Path:
        # Other settings are another folder, as other descriptions of a method are: nothing stale is ever read.
        return self.folder / digest(self.setting.numbers())


def gap(one: Found, other: Found) -> float:
    """Mean absolute difference of what two networks know: what a rate is chosen by."""
    return float(sum(abs(one[name] - other[name]) for name in COMPARED) / len(COMPARED))
