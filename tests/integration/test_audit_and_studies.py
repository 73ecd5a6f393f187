"""The audit of a finished model and the judges of the studies are two ways to the same numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from robustness_parts._judges import READOUT, Judge, curve, known, relearn
from robustness_parts._recovery import Seen
from robustness_parts._setting import Setting
from robustness_parts._settings import SETTINGS
from safetensors.torch import save_model
from torch import nn

from lightning_unlearn import CrossEntropy, InMemoryRecords
from lightning_unlearn.auditing import audit
from lightning_unlearn.audits import Measure
from lightning_unlearn.report import RobustnessReport

JUDGES = {
    "full": relearn("forget", "full", 1e-3, 5),
    "adapter": relearn("forget", "adapter", 3e-3, 5),
    "int4": Judge("Quantize", {"bits": 4, "group_size": 32}),
    "pruned": Judge("Prune", {"fraction": 0.3}),
}


@dataclass(frozen=True)
class Audited:
    setting: Setting
    networks: Mapping[str, nn.Module]
    report: RobustnessReport


def teach(network: nn.Module, batches: list[Any], epochs: int) -> nn.Module:
    """So that there is something to remove, and something that comes back."""
    optimizer, loss = torch.optim.AdamW(network.parameters(), lr=3e-3), CrossEntropy()
    for _ in range(epochs):
        for batch in batches:
            optimizer.zero_grad()
            loss(READOUT(network, batch)).mean().backward()
            optimizer.step()
    return network


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Audited:
    """An original that was taught what must go, one that was taught half as long for "unlearned", and one that never was."""
    setting, folder = SETTINGS["bundled"].on("cpu"), tmp_path_factory.mktemp("audit")
    world = setting.world("test")
    forget = list(setting.batches(world.forget))
    epochs = {"original": 40, "unlearned": 20, "control": 0}
    networks = {name: teach(setting.start(0), forget, times) for name, times in epochs.items()}
    for name, network in networks.items():
        save_model(network, str(folder / f"{name}.safetensors"))
    report = audit(
        str(folder / "unlearned.safetensors"),
        InMemoryRecords(world.forget, entity="entity"),
        InMemoryRecords(world.retain[:8], entity="entity"),
        original=str(folder / "original.safetensors"),
        control=str(folder / "control.safetensors"),
        network=setting.start(1),
        attacks={name: judge.made() for name, judge in JUDGES.items()},
        audits=[Measure()],
        encoding=setting.encoding(),
        batch_size=setting.batch[0],
        folder=str(folder),
        progress=False,
    )
    return Audited(setting, networks, report)


@pytest.mark.parametrize("name", JUDGES)
def test_an_attack_brings_back_the_same_in_both(name: str, audited: Audited) -> None:
    setting, networks, judge = audited.setting, audited.networks, JUDGES[name]
    world = setting.world("test")
    known_by = {who: known(network, setting, world.forget) for who, network in networks.items()}
    curves = {who: curve(networks[who], judge, setting, world) for who in ("unlearned", "control")}
    before = known_by["unlearned"], known_by["control"]
    seen = Seen(
        known_by["original"], before, curves["unlearned"], curves["control"], slice(None), judge.attack == "Relearn"
    )
    recoveries = [each for each in audited.report.recoveries if (each.attack, each.metric) == (name, "probability")]
    by_audit = {each.point: each.adjusted.value for each in recoveries if each.adjusted is not None}
    by_study = {float(point): seen.recovery(point) for point in seen.points(100)}
    assert by_audit == pytest.approx(by_study, abs=2e-6)  # studies keep six digits of a probability
    assert max(map(abs, by_audit.values())) > (0.02 if judge.attack == "Relearn" else 1e-3)
