"""The bundled configurations of schedules train, and each does what its first line says."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lightning_unlearn import LookaheadRate, OscillationMonitor, PeriodicUnlearn, RepairBursts, TinyCausalLM, Unlearn
from lightning_unlearn.cli import main, read_config

SIZES = {"hidden_size": 16, "num_hidden_layers": 1}


def fit(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, **trainer: Any) -> Any:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["lightning-unlearn"])
    settings = read_config(f"bundled:{name}")
    for unwanted in ("finetune_first", "report"):
        del settings[unwanted]
    settings["recovery"] = {"every_n_epochs": 0}
    settings["model"]["init_args"]["network"]["init_args"] = dict(SIZES)
    settings["trainer"].update({"enable_progress_bar": False, "enable_model_summary": False, **trainer})
    Path("config.yaml").write_text(yaml.safe_dump(settings))
    cli = main(["fit", "--config", "config.yaml"])
    assert any(not torch.equal(p, q) for p, q in zip(cli.model.parameters(), start(), strict=True))
    return {type(c): c for c in cli.trainer.callbacks}, cli


def start() -> list[torch.Tensor]:
    return list(TinyCausalLM(**SIZES).parameters())


def test_repair_bursts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    callbacks, cli = fit("repair_bursts", tmp_path, monkeypatch, max_epochs=16)
    repair, steps = callbacks[RepairBursts], cli.trainer.global_step
    learnt = sum(repair.turn(step).value == "learn" for step in range(steps))
    assert learnt == 4 * 12 < steps
    assert callbacks[Unlearn]._steps == {"merged": steps - learnt, "taken": steps - learnt}


def test_periodic_unlearn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    callbacks, cli = fit("periodic_unlearn", tmp_path, monkeypatch, max_steps=5, max_epochs=-1)
    assert callbacks[PeriodicUnlearn].every == 4
    assert callbacks[Unlearn]._steps == {"merged": 1, "taken": 1}
    order = cli.datamodule.order
    assert len(order.conflicts) == 18
    kept = cli.datamodule.forget_order()(0)
    assert set(kept) == set(sorted(range(18), key=lambda row: -order.conflicts[row])[:9])


def test_lookahead_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    callbacks, cli = fit("lookahead_rate", tmp_path, monkeypatch, max_steps=17, max_epochs=-1)
    assert callbacks[LookaheadRate].factor != 1
    assert [step for step, _ in callbacks[OscillationMonitor].looks] == [0, 4, 8, 12, 16]
    assert {"oscillation/swing", "lookahead/factor"} <= set(cli.trainer.callback_metrics)
