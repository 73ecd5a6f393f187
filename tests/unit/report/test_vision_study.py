"""The vision study: what must go and what must stay, what is compared, and every unit of work on a network of no size."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import vision
from robustness_parts._method import Method, methods
from robustness_parts._runner import available, quieten
from robustness_parts._units import do
from torch import nn
from vision_parts._fit import forget as forgotten
from vision_parts._fit import meanings
from vision_parts._judges import PANEL, curve, distance, halves, known, weight_distance
from vision_parts._results import lead, results, table
from vision_parts._settings import SETTINGS
from vision_parts._study import TUNING_SEED, Study, gap
from vision_parts._world import KINDS, Setting, World

from lightning_unlearn import ResNet20, TinyViT
from lightning_unlearn.data import Images, LabelledImages


class Drawn(Images):
    """Classes that differ in brightness, so that they can be learnt."""

    def __init__(self, seed: int, count: int = 48) -> None:
        self.seed, self.count = seed, count

    def load(self) -> LabelledImages:
        labels = torch.arange(self.count) % 4
        noise = torch.randn(self.count, 1, 8, 8, generator=torch.Generator().manual_seed(self.seed))
        return LabelledImages(noise + 2 * labels[:, None, None, None] - 3, labels, list("abcd"))


SETTING = Setting(
    name="mnist",  # whose methods need linear layers
    network=lambda classes, seed: TinyViT(classes, size=8, patch=4, width=8, depth=1, heads=2, seed=seed),
    train=Drawn(0),
    test=Drawn(1),
    groups=[[0, 2], [1, 3]],
    gone={"test": 1, "tune": 3},
    share=0.25,
    head="head",
    wide=("fc1", "fc2"),
    teach={"epochs": 4, "lr": 1e-2, "batch_size": 16},
    batch=(4, 8),
    steps=15,
    rates=(1e-3, 1e-2),
    seconds=0.001,
)


def those_of(setting: Setting) -> tuple[list[Method], dict[str, str]]:
    """The methods for a setting, and what is missing of others."""
    known = meanings(World(setting, "class", "test", seed=0), rate=1.0)
    return available(methods(vision.METHODS).values(), known, setting.name)


def images(world: World, which: str) -> torch.Tensor:
    return torch.cat([x for x, _ in world.batches(which)]).flatten(1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["test", "tune"])
def test_what_must_go_and_what_must_stay_are_all_that_was_taught(kind: str, name: str) -> None:
    world = World(SETTING, kind, name, seed=3)
    forget, retain = images(world, "forget"), images(world, "retain")
    assert len(forget) == 12
    together = torch.cat([forget, retain])
    everything = Drawn(0).load().images.flatten(1)
    assert torch.equal(together.unique(dim=0), everything.unique(dim=0))
    assert len(together) == len(everything)


@pytest.mark.parametrize("kind", KINDS)
def test_the_unseen_are_like_what_must_go_and_none_of_them_was_taught(kind: str) -> None:
    world = World(SETTING, kind, "test", seed=3)
    taught, unseen = Drawn(0).load().images.flatten(1), images(world, "unseen")
    assert not (unseen[:, None] == taught[None]).all(2).any()
    labels = {which: {int(y) for _, ys in world.batches(which) for y in ys} for which in ("forget", "unseen", "test")}
    assert labels["unseen"] == labels["forget"]
    assert (labels["forget"] <= labels["test"]) == (kind != "class")


def test_a_sub_class_is_part_of_a_class_that_stays() -> None:
    world = World(SETTING, "subclass", "test", seed=0)
    assert {int(y) for _, ys in world.batches("forget") for y in ys} == {1}
    assert {int(y) for _, ys in world.batches("retain") for y in ys} == {0, 1}
    assert SETTING.classes("subclass") == 2


class Sure(nn.Module):
    """Says the class of brightness, or, of images it remembers, whatever it is told."""

    def __init__(self, known: torch.Tensor) -> None:
        super().__init__()
        self.known, self.w = known, nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = (x.flatten(1)[:, None] == self.known[None]).all(2).any(1)
        labels = ((x.mean((1, 2, 3)) + 3) / 2).round().long().clamp(0, 3)
        return nn.functional.one_hot(labels, 4) * (1 + 5 * seen[:, None]) * self.w


def test_membership_is_certain_of_who_remembers_and_a_guess_of_who_does_not() -> None:
    world = World(SETTING, "class", "test", seed=0)
    remembered = {"yes": images(world, "forget"), "no": torch.zeros(1, 64)}
    of = {name: known(Sure(seen), world) for name, seen in remembered.items()}
    assert of["yes"]["membership"] == 1
    assert of["no"]["membership"] == 0.5
    assert of["no"]["forget"] == of["no"]["test"] == 1


def test_distances_are_nothing_from_itself_and_one_from_the_original() -> None:
    world = World(SETTING, "class", "test", seed=0)
    one, other = SETTING.start("class", 0), SETTING.start("class", 1)
    assert distance(one, one, world) == 0
    assert distance(one, other, world) == distance(other, one, world) > 0
    assert weight_distance(other, other, one) == 0
    assert weight_distance(one, other, one) == 1


def test_the_gap_is_the_mean_of_four_differences() -> None:
    one = {"forget": 0.5, "retain": 1.0, "test": 0.9, "membership": 0.7, "divergence": 9.0}
    other = {"forget": 0.1, "retain": 0.9, "test": 1.0, "membership": 0.5, "divergence": 0.0}
    assert gap(one, other) == pytest.approx((0.4 + 0.1 + 0.1 + 0.2) / 4)


def test_a_lead_is_at_the_attackers_best_point_and_may_be_none() -> None:
    assert lead({"1": 0.2, "10": 0.9}, {"1": 0.1, "10": 0.5}) == 0.4
    assert lead({"1": 0.2, "10": 0.3}, {"1": 0.5, "10": 0.4}) == -0.1


def test_an_attacker_is_judged_on_what_he_does_not_see() -> None:
    shown, judged = halves(World(SETTING, "class", "test", seed=0).batches("forget", 5))
    seen, rest = (torch.cat([x for x, _ in half]).flatten(1) for half in (shown, judged))
    assert len(seen) + len(rest) == 12
    assert not (seen[:, None] == rest[None]).all(2).any()


def test_a_network_without_statistics_is_not_recalibrated() -> None:
    world = World(SETTING, "class", "test", seed=0)
    assert curve(SETTING.start("class", 0), PANEL["recalibrate"], world) == {}
    assert curve(SETTING.start("class", 0), PANEL["int4"], world)


@pytest.mark.parametrize("name", ["GS-LoRA on convolutions", "GS-LoRA on convolutions under Relearn"])
def test_adapters_of_a_resnet_are_convolutions_in_its_blocks_and_go_into_its_weights(name: str) -> None:
    start = lambda classes, seed: ResNet20(classes, width=2, channels=1, seed=seed)  # noqa: E731
    world = World(replace(SETTING, network=start, steps=2, head="linear"), "class", "test", seed=0)
    network, before = world.setting.start("class", 0), world.setting.start("class", 0).state_dict()
    method = methods(vision.METHODS)[name]
    found = forgotten(network, method, rate=1e-2, world=world, seed=0)
    assert isinstance(found, ResNet20)
    moved = {key for key, value in found.named_parameters() if not torch.equal(value, before[key])}
    assert moved == {key for key in before if re.fullmatch(r"layer\d\.\d\.conv[12]\.weight", key)}


def test_a_network_with_statistics_is_recalibrated_and_left_as_it_was() -> None:
    setting = replace(SETTING, network=lambda classes, seed: ResNet20(classes, width=2, channels=1, seed=seed))
    world, network = World(setting, "class", "test", seed=0), setting.start("class", 0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = curve(network, PANEL["recalibrate"], world)
    assert list(found) == ["1", "5"]  # 36 images, in batches of 8
    assert found["1"] != found["5"]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("name", list(SETTINGS))
def test_every_method_has_its_parts_or_is_named(name: str) -> None:
    wanted, missing = those_of(SETTING if name == "mnist" else SETTINGS[name])
    assert {"NPO", "NPO under Relearn", "Random labels", "Random labels under Relearn"} <= {m.name for m in wanted}
    assert all("is not in this version" in reason for reason in missing.values())
    assert ("GS-LoRA" in {*missing, *(m.name for m in wanted)}) == (name == "mnist")


def done(study: Study) -> dict[str, Any]:
    do(study.units())
    return results(study, {})


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_unit_can_be_done_and_is_done_once(kind: str, tmp_path: Path) -> None:
    """All methods of this version, on a network of a few hundred weights: from teaching to the table."""
    quieten()
    wanted, missing = those_of(SETTING)
    study = Study(SETTING, (kind,), tuple(wanted), (0,), tmp_path)
    found = done(study)
    for name, method in found["kinds"][kind]["methods"].items():
        assert [trial.get("error") for trial in method["trials"]] == [None] * len(method["trials"]), name
        (run,) = method["runs"]
        assert set(run["leads"]) == {"relearn 0.001", "relearn 0.0003", "int4"}
    taught = found["kinds"][kind]["taught"]["0"]
    assert taught["retrained"]["divergence"] == taught["retrained"]["weights"] == 0
    assert taught["original"]["weights"] == 1
    shown = table(found)
    assert all(f"| {name} |" in shown for name in ("original", "retrained", *(m.name for m in wanted)))
    assert not set(missing) & set(shown.split(" | "))
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    assert len(times) == len({unit.path for unit in study.units()})
    assert done(study) == found
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")} == times


def test_the_rate_is_that_with_the_smallest_gap_on_another_class(tmp_path: Path) -> None:
    method = Method("NPO", {"rates": [1.0, 2.0, 3.0]})
    study = Study(SETTING, ("class",), (method,), (0,), tmp_path)
    retrained = {"forget": 0.0, "retain": 1.0, "test": 1.0, "membership": 0.5}
    _written(study.taught("class", TUNING_SEED).path, {"retrained": retrained})
    for unit, forget in zip(study.trials("class", method), (0.9, 0.1, 0.4), strict=True):
        rate = float(unit.path.stem.removeprefix("tuned-"))
        _written(unit.path, {"rate": rate, "known": {**retrained, "forget": forget}})
    assert study.rate("class", method) == 2.0


def _written(path: Path, found: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found))
