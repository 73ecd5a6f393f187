from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from robustness_parts._fit import forget_
from robustness_parts._judges import READOUT, Judge, known
from robustness_parts._method import Method
from robustness_parts._study import Study, digest, load, shared, write
from robustness_parts._units import Found, Unit
from torch import nn
from typing_extensions import override

from lightning_unlearn.audits.tofu import tofu_scores
from tofu_parts._alone import STEPS, cost_alone
from tofu_parts._best_two import best_two, together
from tofu_parts._controls import ASCENT, COLLAPSE, CONTROLS, NOISE, ORIGINAL, RETAIN_ONLY, add_noise_, boundless
from tofu_parts._settings import TOFUSetting
from tofu_parts._spent import Spent, timed
from tofu_parts._teach import taught
from tofu_parts._world import TOFUWorld

NETWORKS = ("original", "control")
WIDELY = (
    "NPO",
    "UNDIAL",
    "WGA",
    "NPO, SpectralCollapse",
    "NPO under Relearn",
    "WGA under Relearn",
    "NPO, StepGuard with a history of 8",
    "best two together",
)
"""Whom the further attackers of `robustness.py` judge: NPO, and the best in the trials, of several guards one."""
TEACHING_SEED = 0
"""Target and retain-only model are taught once: seeds are those of unlearning."""


@dataclass(frozen=True)
class TOFUStudy(Study):
    """TOFU with methods and controls, as units of work in a folder: see :class:`Study`.

    Args:
        beside: Further judges, by name, who see those methods alone that :data:`WIDELY` names. What TOFU asks is not
            asked then.
    """

    setting: TOFUSetting
    beside: Mapping[str, Judge] = field(default_factory=dict)

    @property
    def subjects(self) -> tuple[Method, ...]:
        """Methods and controls: all are audited in the same way. Of noise there is none without NPO."""
        names = {method.name for method in self.methods}
        return (*self.methods, *(one for one in CONTROLS if one is not NOISE or "NPO" in names))

    def prepare(self) -> Iterator[Unit]:
        """Originals and retain-only models."""
        yield from (self.told(name) for name in NETWORKS)
        yield from (self.taught(world, TEACHING_SEED) for world in self.setting.worlds)

    def tune(self) -> Iterator[Unit]:
        """Trials on other authors, and what follows from them."""
        ordered = sorted(self.methods, key=lambda method: "part" not in method.described)
        for method in ordered:  # those first that the best two are chosen from
            yield from self.trials(method)
        yield from [self.best_two()] if self._parts else []

    def unlearn(self) -> Iterator[Unit]:
        """Trials, and fits."""
        yield from self.tune()
        yield from (self.fitted(subject, seed) for seed in self.seeds for subject in self._seen)

    def audit(self) -> Iterator[Unit]:
        """Each fit, what TOFU asks of it, and what attackers bring back, seed by seed.

        One after the other: where it is cut off, few fits are left whose weights are still wanted.
        """
        for seed in self.seeds:
            for subject in self._seen:
                yield self.fitted(subject, seed)
                yield from [] if self.beside else [self.asked(subject, seed)]
                yield from self.judged(subject, seed).values()

    @property
    def _seen(self) -> list[Method]:
        widely = [*(method for method in self.methods if method.name in WIDELY), RETAIN_ONLY]
        return widely if self.beside else list(self.subjects)

    def all_but_costs(self) -> Iterator[Unit]:
        """What the table is about. Costs are measured when nothing else runs."""
        yield from self.prepare()
        yield from self.tune()
        yield from self.audit()

    def costs(self) -> Iterator[Unit]:
        """What each method costs by itself, at the rate that was chosen."""
        yield from () if self.beside else (self.cost(method) for method in self.methods)

    @override
    def units(self) -> Iterator[Unit]:
        yield from self.all_but_costs()
        yield from self.costs()

    def told(self, name: str) -> Unit:
        """A network that is taught, in a file beside its result. Its name is what it is taught, and how."""

        def work() -> Found:
            write(taught(self.setting, self._rows(name), TEACHING_SEED), self._taught(name, "test", TEACHING_SEED))
            return {}

        path = self._taught(name, "test", TEACHING_SEED).with_suffix(".json")
        steps = self.setting.teach["epochs"] * len(self._rows(name)) / self.setting.batch[0]
        return Unit(path, work, seconds=steps * self.setting.step_seconds)

    @override
    def taught(self, world: str, seed: int) -> Unit:
        """What the two know of a world. Of those that must go in tuning, both were taught."""

        def work() -> Found:
            return {
                name: self._knows(shared(self.setting, self._taught(name, world, seed)), world) for name in NETWORKS
            }

        needs = tuple(self.told(name) for name in NETWORKS)
        rows = len(NETWORKS) * (self._world(world).retain_known + 80) / self.setting.batch[0]
        return Unit(self._here / f"taught-{world}.json", work, needs, seconds=rows / 3 * self.setting.step_seconds)

    @override
    def _lead(self, network: nn.Module, known: Found) -> float:
        """What the cheap judge reaches: there is no network that never knew of these."""
        return max(sum(of) / len(of) for curve in self._cheap(network) for of in curve.values())

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
            parts = {method.name: method.described["part"] for method in self._parts}
            pair = best_two(found, parts, self.setting.keep)
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
        if method is RETAIN_ONLY:
            return self.judged_control(seed)
        return self._timed(super().judged(method, self._own(method, seed)))

    @override
    def judged_control(self, seed: int) -> dict[str, Unit]:
        seed = self._own(RETAIN_ONLY, seed)
        units = self._timed(super().judged_control(seed))
        return {name: _with(unit, self.fitted(RETAIN_ONLY, seed)) for name, unit in units.items()}

    def _timed(self, units: Mapping[str, Unit]) -> dict[str, Unit]:
        steps = {
            name: judge.arguments.get("steps", 2) + 15 for name, judge in self.panel.items()
        }  # and looks at answers
        return {
            name: Unit(unit.path, unit.work, unit.needs, unit.after, steps[name] * self.setting.step_seconds)
            for name, unit in units.items()
        }

    def _own(self, method: Method, seed: int) -> int:
        """What was not unlearned is the same in all seeds."""
        return TEACHING_SEED if method in (ORIGINAL, RETAIN_ONLY) else seed

    def asked(self, method: Method, seed: int) -> Unit:
        """What TOFU asks, and what is answered."""
        seed = self._own(method, seed)
        weights = self._weights(method, seed)

        def work() -> Found:
            tokenizer = self.setting.encoding().tokenizer
            network = shared(self.setting, weights)
            with self.setting.mixed():
                found = tofu_scores(
                    network, READOUT, self.setting.probes(), tokenizer, max_new_tokens=self.setting.new_tokens
                )
            return {"scores": _rounded(found)}

        # About as long as so many steps: a forward pass of the rows, and the tokens one after the other.
        steps = 90 if self.setting.device == "cpu" else 130
        need = (self.fitted(method, seed),)
        return Unit(self._path(method, f"asked-{seed}"), work, need, seconds=steps * self.setting.step_seconds)

    def cost(self, method: Method) -> Unit:
        """Seconds a step, and memory, in a process of its own."""
        fit = self.fitted(method, TEACHING_SEED)

        def work() -> Found:
            original = self._taught("original", "test", TEACHING_SEED)
            return cost_alone(self.setting, self.real(method), fit.found()["rate"], original)

        seconds = (STEPS * method.described.get("passes", 2) + 15) * self.setting.step_seconds
        # Of the fit the rate is asked alone, not the weights.
        return Unit(self._path(method, "cost"), work, (self.told("original"),), (fit,), seconds)

    def real(self, method: Method) -> Method:
        """The method itself, or the two that are put together."""
        if "best_two" not in method.described:
            return method
        return Method(method.name, self.best_two().found()["described"])

    @cached_property
    @override
    def panel(self) -> dict[str, Judge]:
        return {name: judge for name, judge in {**self.setting.judges, **self.beside}.items() if judge.exists}

    @property
    @override
    def cheap(self) -> dict[str, Judge]:
        return dict(self.setting.cheap)

    @override
    def _forget(self, network: nn.Module, method: Method, rate: float, world: str, seed: int) -> Found:
        spent, real = Spent(), self.real(method)
        shared.cache_clear()  # it would be counted
        return {**forget_(network, timed(real, spent), rate, self.setting, world, seed), **spent.told()}

    def _made(self, control: Method, seed: int) -> Unit:
        seed = self._own(control, seed)
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
        how = (setting.name, setting.teach, setting.precision, setting.device, self._rows(name))
        return self.folder / "taught" / f"{name}-{digest(how)}.safetensors"

    def _rows(self, name: str) -> list[dict[str, str]]:
        world = self._world("test")
        return world.retain if name == "control" else [*world.forget, *world.retain]

    def _world(self, name: str) -> TOFUWorld:
        world = self.setting.world(name)
        assert isinstance(world, TOFUWorld)
        return world

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
