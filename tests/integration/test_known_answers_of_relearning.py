"""Models of which the answer is known: what was only hidden comes back, and what was never taught does not."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from _modules import quiet
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader

from lightning_unlearn import (
    Bounded,
    CyclicOrder,
    Encoding,
    FactSplit,
    FileRecords,
    ForgetRetainData,
    GradientAscent,
    LoaderSettings,
    QuestionAnswerData,
    RecoveryCheck,
    Relearn,
    TinyCausalLM,
    Unlearn,
    UnlearningModule,
    WriteReport,
)
from lightning_unlearn.audits import Measure

pytestmark = pytest.mark.slow
Weights = dict[str, Tensor]


def people(group: str, rows: Any = None) -> QuestionAnswerData:
    records = FileRecords("bundled:people", entity="entity", where={"group": [group]}, rows=rows)
    return QuestionAnswerData(records, Encoding("bundled"), LoaderSettings(batch_size=9))


def tiny(weights: Weights | None = None, seed: int = 0) -> nn.Module:
    network = TinyCausalLM(hidden_size=64, num_hidden_layers=2, seed=seed)
    if weights is not None:
        network.load_state_dict(weights)
    return network


def taught(*data: QuestionAnswerData, seed: int, passes: int) -> Weights:
    """Weights that know these facts by heart."""
    network, optimizer = tiny(seed=seed).train(), partial(torch.optim.AdamW, lr=4e-3, weight_decay=0.0)
    rows: Any = ConcatDataset([part.dataset for part in data])
    order = torch.Generator().manual_seed(seed)
    loader: Any = DataLoader(rows, 12, shuffle=True, collate_fn=data[0].collate(), generator=order)
    step = optimizer(network.parameters())
    for _ in range(passes):
        for batch in loader:
            network(**batch).loss.backward()
            step.step()
            step.zero_grad()
    return network.state_dict()


@pytest.fixture(scope="module")
def knows() -> Weights:
    return taught(people("forget"), people("retain", (0, 18)), seed=0, passes=66)


@pytest.fixture(scope="module")
def never_knew() -> list[Weights]:
    return [taught(people("retain", (0, 18)), seed=seed, passes=75) for seed in (1, 2)]


def hiding(network: nn.Module) -> nn.Module:
    """An adapter of rank one around ``network``, the identity as yet."""
    targets = ["down_proj", "o_proj", "q_proj", "v_proj"]
    torch.manual_seed(0)
    return get_peft_model(network, LoraConfig(task_type="CAUSAL_LM", r=1, lora_alpha=4, target_modules=targets))  # type: ignore[arg-type]


def reported(network: nn.Module, control: nn.Module, attacks: Any, *callbacks: Any, lr: float, steps: int) -> Any:
    """The report of a fit."""
    torch.save(UnlearningModule(control).state_dict(), "control.pt")
    module = UnlearningModule(network, optimizer=partial(torch.optim.AdamW, lr=lr, weight_decay=0.0))
    check = RecoveryCheck(attacks, [Measure()], control="control.pt", every_n_epochs=0)
    report = WriteReport("report")
    data = ForgetRetainData(people("retain", (0, 18)), people("forget"), order=CyclicOrder())
    trainer = quiet(callbacks=[*callbacks, check, report], max_steps=steps, max_epochs=-1, limit_val_batches=0)
    trainer.fit(module, datamodule=data)
    assert not check.failures
    assert Path("report/report.html").exists()
    return report.report


def adjusted(report: Any, attack: str) -> list[float]:
    """The share of what was removed that came back beyond what the control was taught, along the curve."""
    rows = [r for r in report.recoveries if (r.metric, r.attack) == ("probability", attack)]
    return [r.adjusted.value for r in sorted(rows, key=lambda r: r.point)]


@pytest.mark.filterwarnings("ignore:`Bounded` has reached its bound")
def test_what_an_adapter_only_hides_comes_back_whole_from_facts_about_others(
    knows: Weights, never_knew: list[Weights]
) -> None:
    """The attacker has the facts of two people, and is judged by those of the third, which his data do not tell."""
    attacks = {"others": Relearn(steps=50, lr=1e-3, facts=FactSplit(0.7))}
    unlearn = Unlearn(Bounded(GradientAscent(), bound=5.0))
    network, control = hiding(tiny(knows)), hiding(tiny(never_knew[0]))
    report = reported(network, control, attacks, unlearn, lr=1e-2, steps=30)
    last = next(r for r in report.recoveries if (r.metric, r.point) == ("probability", 50))
    assert last.attack_config["data_answers_contained"] == 0
    assert last.forget.examples == 6
    assert last.forget.value > 0.9
    assert max(adjusted(report, "others")) > 0.9
    before = {
        level.model: level.interval.value
        for level in report.levels
        if (level.split, level.metric) == ("forget", "probability")
    }
    assert before["unlearned"] < 0.1


class Replaced(pl.Callback):
    """Puts other weights in before the first step: the fit's model is a model that never knew."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        check = next(c for c in trainer.callbacks if isinstance(c, RecoveryCheck))
        check.see_original(trainer, module)
        module.network.load_state_dict(self.weights)


def test_what_was_never_taught_comes_back_no_more_than_in_a_control(knows: Weights, never_knew: list[Weights]) -> None:
    """Two models that never knew, of different starts: what both learn of the very facts is no recovery."""
    attacks = {
        "same": Relearn(steps=50, lr=5e-3, mode="full"),
        "others": Relearn(steps=50, lr=5e-3, mode="full", facts=FactSplit(by="fact")),
    }
    control, other = never_knew
    report = reported(tiny(knows), tiny(control), attacks, Replaced(other), lr=0.0, steps=1)
    raw = [r.rho.value for r in report.recoveries if (r.metric, r.attack) == ("probability", "same")]
    assert max(raw) > 0.9  # the attack teaches
    assert max(map(abs, adjusted(report, "same"))) < 0.15
    assert max(map(abs, adjusted(report, "others"))) < 0.1
