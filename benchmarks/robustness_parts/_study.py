from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

from safetensors.torch import save_model
from torch import nn

from lightning_unlearn.runtime import written_whole
from robustness_parts._criterion import chosen_rate, lead
from robustness_parts._fit import forget_, load_, teach
from robustness_parts._judges import PANELS, Judge, curve, known
from robustness_parts._method import Method
from robustness_parts._setting import Setting
from robustness_parts._units import Unit

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
        for seed in self.seeds:
            yield self.taught("test", seed)
            yield from self.judged_control(seed).values()
        # Seed by seed, so that a study that is cut off has something to say about all methods.
        for seed in self.seeds:
            for method in self.methods:
                yield self.fitted(method, seed)
                yield from self.judged(method, seed).values()

    def taught(self, world: str, seed: int) -> Unit:
        """The original and the control: what they know."""

        def work() -> dict[str, Any]:
            networks = zip(("original", "control"), self._taught(world, seed), strict=True)
            return {name: self._knows(network, world) for name, network in networks}

        return Unit(self._here / f"taught-{world}-{seed}.json", work, seconds=900 * self.setting.seconds)

    def trials(self, method: Method) -> list[Unit]:
        """One fit for each learning rate, looked at by the cheap judge."""
        taught = self.taught("tune", TUNING_SEED)
        return [
            Unit(
                self._path(method, f"tuned-{rate:g}"),
                self._trial(method, rate),
                (taught,),
                seconds=2 * self.setting.steps * self.setting.seconds,
            )
            for rate in self.rates(method)
        ]

    def rates(self, method: Method) -> tuple[float, ...]:
        """The learning rates that are tried: as many for each method, around where it works."""
        return tuple(rate * method.described.get("rate", 1.0) for rate in self.setting.rates)

    def fitted(self, method: Method, seed: int) -> Unit:
        """The unlearned network, in a file beside what it spent."""

        def work() -> dict[str, Any]:
            network, _ = self._taught("test", seed)
            rate = chosen_rate([unit.found() for unit in self.trials(method)])
            found = forget_(network, method, rate, self.setting, "test", seed)
            with written_whole(self._weights(method, seed)) as new:
                save_model(network, str(new))
            return found

        seconds = 2 * self.setting.steps * self.setting.seconds
        # A rate that was too high for a method is a trial that failed, not the end of the method.
        trials = tuple(self.trials(method))
        return Unit(self._path(method, f"fit-{seed}"), work, (self.taught("test", seed),), trials, seconds)

    def judged(self, method: Method, seed: int) -> dict[str, Unit]:
        """What each judge brings back."""
        needs = (self.fitted(method, seed),)

        def network() -> nn.Module:
            return self._loaded(self._weights(method, seed))

        return {name: self._judgement(method, name, seed, network, needs) for name in self.panel}

    def judged_control(self, seed: int) -> dict[str, Unit]:
        """What each judge teaches a network that never knew."""
        needs = (self.taught("test", seed),)

        def network() -> nn.Module:
            return self._taught("test", seed)[1]

        return {name: self._judgement(None, name, seed, network, needs) for name in self.panel}

    @cached_property
    def panel(self) -> dict[str, Judge]:
        """The judges by name, but for those whose attack this version of the package does not have."""
        return {name: judge for name, judge in PANELS[self.setting.panel].items() if judge.exists}

    def _judgement(self, method: Method | None, judge: str, seed: int, network: Any, needs: tuple[Unit, ...]) -> Unit:
        def work() -> dict[str, Any]:
            return {"curve": curve(network(), self.panel[judge], self.setting, self.setting.world("test"))}

        described = self.panel[judge]
        words = f"judged-{seed}-{plain(judge)}-{digest(asdict(described))}"
        seconds = described.arguments.get("steps", 1) * self.setting.seconds
        return Unit(self._path(method, words), work, needs, seconds=seconds)

    def _trial(self, method: Method, rate: float) -> Any:
        def work() -> dict[str, Any]:
            original, control = self._taught("tune", TUNING_SEED)
            knew = self._knows(original, "tune")
            found = forget_(original, method, rate, self.setting, "tune", TUNING_SEED)
            world = self.setting.world("tune")
            judges = PANELS["cheap"].values()
            curves = [
                [curve(network, judge, self.setting, world) for network in (original, control)] for judge in judges
            ]
            return {**found, "original retain": knew["retain"], "lead": max(lead(*pair) for pair in curves)}

        return work

    def _taught(self, world: str, seed: int) -> tuple[nn.Module, nn.Module]:
        return teach(self.setting, world, seed, self.folder / "taught")

    def _knows(self, network: nn.Module, world: str) -> dict[str, list[float]]:
        rows = {name: getattr(self.setting.world(world), name) for name in ("forget", "retain", "unseen")}
        return {name: known(network, self.setting, some) for name, some in rows.items() if some}

    def _loaded(self, weights: Path) -> nn.Module:
        network = self.setting.network(0)
        load_(network, weights)
        return network

    def _weights(self, method: Method, seed: int) -> Path:
        return self._path(method, f"fit-{seed}").with_suffix(".safetensors")

    def _path(self, method: Method | None, words: str) -> Path:
        name = "control" if method is None else f"{plain(method.name)}-{digest(method.described)}"
        return self._here / name / f"{words}.json"

    @cached_property
    def _here(self) -> Path:
        # Other settings are another folder, as other descriptions of a method are: nothing stale is ever read.
        return self.folder / digest(self.setting.numbers())


def digest(value: Any) -> str:
    """A short name for plain data."""
    return blake2b(json.dumps(value, sort_keys=True, default=str).encode(), digest_size=3).hexdigest()


def plain(words: str) -> str:
    """A name as a file's."""
    return "".join(c if c.isalnum() or c == "." else "-" for c in words)
