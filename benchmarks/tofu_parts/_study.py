from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from robustness_parts._fit import forget_
from robustness_parts._judges import READOUT, Judge, known
from robustness_parts._method import Method
from robustness_parts._study import TUNING_SEED, Study, digest, load, shared, write
from robustness_parts._units import Found, Unit
from torch import nn
from typing_extensions import override

from lightning_unlearn.audits.tofu import tofu_scores
from tofu_parts._best_two import best_two, together
from tofu_parts._controls import ASCENT, COLLAPSE, CONTROLS, NOISE, ORIGINAL, RETAIN_ONLY, add_noise_, boundless
from tofu_parts._settings import TOFUSetting
from tofu_parts._spent import Spent
from tofu_parts._teach import taught
from tofu_parts._world import TOFUWorld

NETWORKS = ("original", "control")


@dataclass(frozen=True)
class Timed(Method):
    """A method whose fits are timed."""

    @override
    def callbacks(self, names: Any) -> list[Any]:
        return [*super().callbacks(names), self.described["spent"]]


@dataclass(frozen=True)
class TOFUStudy(Study):
    """TOFU with methods and controls, as units of work in a folder: see :class:`Study`."""

    setting: TOFUSetting

    @property
    def subjects(self) -> tuple[Method, ...]:
        """Methods and controls: all are audited in the same way. Of noise there is none without NPO."""
        names = {method.name for method in self.methods}
        return (*self.methods, *(one for one in CONTROLS if one is not NOISE or "NPO" in names))

    def prepare(self) -> Iterator[Unit]:
        """Originals and retain-only models."""
        for world, seed in [("tune", TUNING_SEED), *(("test", seed) for seed in self.seeds)]:
            yield from (self.told(name, world, seed) for name in NETWORKS)
        yield from self._all_taught()

    def unlearn(self) -> Iterator[Unit]:
        """Trials on other authors, and fits."""
        ordered = sorted(self.methods, key=lambda method: "part" not in method.described)
        for method in ordered:  # those first that the best two are chosen from
            yield from self.trials(method)
        yield from [self.best_two()] if self._parts else []
        for seed in self.seeds:
            yield from (self.fitted(subject, seed) for subject in self.subjects)

    def audit(self) -> Iterator[Unit]:
        """What attackers bring back, and what TOFU asks, seed by seed."""
        for seed in self.seeds:
            for subject in self.subjects:
                yield self.asked(subject, seed)
                yield from self.judged(subject, seed).values()

    @override
    def units(self) -> Iterator[Unit]:
        yield from self.prepare()
        yield from self.unlearn()
        yield from self.audit()

    def told(self, name: str, world: str, seed: int) -> Unit:
        """One network that is taught, in a file beside what it knows. Its name is what it is taught, and how."""

        def work() -> Found:
            network = taught(self.setting, self._rows(name, world), seed)
            write(network, self._taught(name, world, seed))
            return {"knows": self._knows(network, world)}

        path = self._taught(name, world, seed).with_suffix(".json")
        steps = self.setting.teach["epochs"] * len(self._rows(name, world)) / self.setting.batch[0] / 2
        return Unit(path, work, seconds=steps * self.setting.step_seconds)

    @override
    def taught(self, world: str, seed: int) -> Unit:
        needs = {name: self.told(name, world, seed) for name in NETWORKS}

        def work() -> Found:
            knows = {name: unit.found()["knows"] for name, unit in needs.items()}
            if world != "tune":
                return knows
            return {**knows, "cheap": self._cheap(load(self.setting, self._taught("control", world, seed)))}

        steps = 20 if world == "tune" else 0
        seconds = steps * self.setting.step_seconds
        return Unit(self._here / f"taught-{world}-{seed}.json", work, tuple(needs.values()), seconds=seconds)

    @override
    def trials(self, method: Method) -> list[Unit]:
        needs = (self.best_two(),) if "best_two" in method.described else ()
        seconds = self._fit_seconds(method) + 20 * self.setting.step_seconds
        return [
            Unit(unit.path, unit.work, (*unit.needs, *needs), unit.after, seconds) for unit in super().trials(method)
        ]

    def best_two(self) -> Unit:
        """Which two parts are put together."""
        trials = {method.name: self.trials(method) for method in self._parts}

        def work() -> Found:
            found = {name: [unit.found() for unit in units] for name, units in trials.items()}
            pair = best_two(found, {method.name: method.described["part"] for method in self._parts})
            one, other = (next(method for method in self._parts if method.name == name) for name in pair)
            return {"of": pair, "described": together(one, other)}

        path = self._here / f"best-two-{digest([method.described for method in self._parts])}.json"
        return Unit(path, work, after=tuple(unit for units in trials.values() for unit in units))

    @override
    def fitted(self, method: Method, seed: int) -> Unit:
        if method in CONTROLS:
            return self._made(method, seed)
        unit = super().fitted(method, seed)

        def work() -> Found:
            found = unit.work()
            network = shared(self.setting, self._weights(method, seed))
            return {**found, "holdout": known(network, self.setting, self._world("test").holdout)}

        return Unit(unit.path, work, unit.needs, unit.after, self._fit_seconds(method))

    @override
    def judged(self, method: Method, seed: int) -> dict[str, Unit]:
        units = self.judged_control(seed) if method is RETAIN_ONLY else super().judged(method, seed)
        times = {
            name: judge.arguments.get("steps", 2) * self.setting.step_seconds for name, judge in self.panel.items()
        }
        return {name: Unit(unit.path, unit.work, unit.needs, unit.after, times[name]) for name, unit in units.items()}

    @override
    def judged_control(self, seed: int) -> dict[str, Unit]:
        return {
            name: _with(unit, self.fitted(RETAIN_ONLY, seed)) for name, unit in super().judged_control(seed).items()
        }

    def asked(self, method: Method, seed: int) -> Unit:
        """What TOFU asks, and what is answered."""
        weights = self._weights(method, seed)

        def work() -> Found:
            tokenizer = self.setting.encoding().tokenizer
            network = shared(self.setting, weights)
            found = tofu_scores(
                network, READOUT, self.setting.probes(), tokenizer, max_new_tokens=self.setting.new_tokens
            )
            return {"scores": _rounded(found)}

        # About as long as so many steps: a forward pass of the rows, and the tokens one after the other.
        steps = 90 if self.setting.device == "cpu" else 130
        need = (self.fitted(method, seed),)
        return Unit(self._path(method, f"asked-{seed}"), work, need, seconds=steps * self.setting.step_seconds)

    def real(self, method: Method) -> Method:
        """The method itself, or the two that are put together."""
        if "best_two" not in method.described:
            return method
        return Method(method.name, self.best_two().found()["described"])

    @cached_property
    @override
    def panel(self) -> dict[str, Judge]:
        return {name: judge for name, judge in self.setting.judges.items() if judge.exists}

    @property
    @override
    def cheap(self) -> dict[str, Judge]:
        return dict(self.setting.cheap)

    @override
    def _forget(self, network: nn.Module, method: Method, rate: float, world: str, seed: int) -> Found:
        spent, real = Spent(), self.real(method)
        shared.cache_clear()  # it would be counted
        timed = Timed(real.name, {**real.described, "spent": spent})
        return {**forget_(network, timed, rate, self.setting, world, seed), **spent.told()}

    def _made(self, control: Method, seed: int) -> Unit:
        taught, npo = self.taught("test", seed), next((m for m in self.methods if m.name == "NPO"), None)
        needs = (taught, self.fitted(npo, seed)) if control is NOISE and npo else (taught,)
        works: dict[str, Callable[[], Found]] = {
            ORIGINAL.name: lambda: taught.found()["original"],
            RETAIN_ONLY.name: lambda: taught.found()["control"],
            NOISE.name: lambda: self._noise(npo, seed),
            COLLAPSE.name: lambda: self._collapse(seed),
        }
        seconds = self._fit_seconds(control) if control is COLLAPSE else 0.0
        return Unit(self._path(control, f"fit-{seed}"), works[control.name], needs, seconds=seconds)

    def _noise(self, npo: Method | None, seed: int) -> Found:
        assert npo is not None
        network = load(self.setting, self._taught("original", "test", seed))
        moved = shared(self.setting, self._weights(npo, seed))
        length = add_noise_(network, moved, seed)
        write(network, self._weights(NOISE, seed))
        return {"moved": length, **self._knows(network, "test")}

    def _collapse(self, seed: int) -> Found:
        network = load(self.setting, self._taught("original", "test", seed))
        setting, rate = boundless(self.setting), 3 * max(self.setting.rates)
        found = forget_(network, ASCENT, rate, setting, "test", seed)
        write(network, self._weights(COLLAPSE, seed))
        return {**found, **self._knows(network, "test")}

    @override
    def _weights(self, method: Method, seed: int) -> Path:
        taught = {ORIGINAL.name: "original", RETAIN_ONLY.name: "control"}.get(method.name)
        return super()._weights(method, seed) if taught is None else self._taught(taught, "test", seed)

    @override
    def _fit_seconds(self, method: Method) -> float:
        passes: float = method.described.get("passes", 2)
        # Two passes of a step are as long as one step of training; looks at the budget and at what is known, besides.
        return (passes * self.setting.steps * 0.8 + 30) * self.setting.step_seconds

    @override
    def _knows(self, network: nn.Module, world: str) -> dict[str, list[float]]:
        rows, holdout = super()._knows(network, world), self._world(world).holdout
        return {**rows, **({"holdout": known(network, self.setting, holdout)} if holdout else {})}

    @override
    def _taught(self, name: str, world: str, seed: int) -> Path:
        setting = self.setting
        how = (setting.name, setting.teach, setting.precision, setting.device, self._rows(name, world))
        return self.folder / "taught" / f"{name}-{world}-{seed}-{digest(how)}.safetensors"

    def _rows(self, name: str, world_name: str) -> list[dict[str, str]]:
        world = self._world(world_name)
        return world.retain if name == "control" else [*world.forget, *world.retain]

    def _world(self, name: str) -> TOFUWorld:
        world = self.setting.world(name)
        assert isinstance(world, TOFUWorld)
        return world

    def _all_taught(self) -> Iterator[Unit]:
        yield self.taught("tune", TUNING_SEED)
        yield from (self.taught("test", seed) for seed in self.seeds)

    @property
    def _parts(self) -> list[Method]:
        return [method for method in self.methods if "part" in method.described]


def _with(unit: Unit, need: Unit) -> Unit:
    return Unit(unit.path, unit.work, (*unit.needs, need), unit.after, unit.seconds)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return round(value, 6) if isinstance(value, float) else value
