"""UNDO in two fits: what has unlearned teaches a damaged copy of itself, on retain data alone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from _modules import loader, quiet
from torch import nn
from torch.nn import functional as F

from lightning_unlearn import ApplyEdit, Corrupt, KLToReference, TinyCausalLM, UnlearningModule
from lightning_unlearn.cli import main
from lightning_unlearn.data import in_order
from lightning_unlearn.readouts import CausalLMReadout
from lightning_unlearn.references import FrozenCopy


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        net = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 5))
        with torch.no_grad():
            net[2].weight.mul_(8)  # it has opinions
    return net


def divergence(student: nn.Module, teacher: nn.Module) -> float:
    x = loader(seed=1).dataset.tensors[0]
    with torch.no_grad():
        return float(F.kl_div(student(x).log_softmax(-1), teacher(x).softmax(-1), reduction="batchmean"))


def distilled(epochs: int) -> UnlearningModule:
    module = UnlearningModule(
        network(), retain=KLToReference(), reference=FrozenCopy(), optimizer=lambda p: torch.optim.Adam(p, lr=1e-2)
    )
    quiet(callbacks=[ApplyEdit(Corrupt(alpha=0.5, beta=0.1))], max_epochs=epochs).fit(module, loader(seed=1))
    return module


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
def test_the_teacher_is_the_network_before_the_damage_and_the_student_comes_back_to_it() -> None:
    damaged = network()
    Corrupt(alpha=0.5, beta=0.1)(damaged)
    module = distilled(20)
    assert divergence(damaged, network()) > 0.1
    assert divergence(module.network, network()) < 0.02
    with torch.no_grad():  # from where it started, not by a way back to the same weights
        apart = (module.network[0].weight - network()[0].weight).norm() / network()[0].weight.norm()
    assert apart > 0.2


def probability(net: Any, source: Any) -> float:
    with torch.no_grad():
        said = [CausalLMReadout()(net.eval(), batch) for batch in in_order(source.loader())]
    return float(torch.cat([(-p.example_nll() / p.rows_per_example()).exp() for p in said]).mean())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
def test_the_two_configurations_forget_and_keep(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A smaller model than theirs, distilled for fewer epochs."""
    monkeypatch.setattr(sys, "argv", ["lightning-unlearn"])
    monkeypatch.chdir(tmp_path)
    small = ["--model.network.hidden_size=64", "--model.network.num_hidden_layers=2", "--recovery.attacks={}"]
    first = main(["fit", "--config", "bundled:undo_teacher", *small, "--report=null"])
    teacher, data = first.model.network, first.datamodule
    second = main(["fit", "--config", "bundled:undo", "--recovery=null", "--report=null", "--trainer.max_epochs=30"])
    student, damaged = second.model.network, TinyCausalLM(hidden_size=64, num_hidden_layers=2)
    damaged.load_state_dict(teacher.state_dict())
    Corrupt(alpha=0.25)(damaged)
    forget = [probability(net, data.forget) for net in (teacher, damaged, student)]
    retain = [probability(net, data.retain) for net in (teacher, damaged, student)]
    assert max(forget) < 0.1
    assert retain[1] < 0.9 * retain[0]
    assert retain[2] > 0.9 * retain[0]
