"""Two models of which the answer is known, from the network to the page: one that was destroyed, one that shuns."""

from __future__ import annotations

import re
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from _modules import quiet
from torch import Tensor

from lightning_unlearn import (
    Bounded,
    CyclicOrder,
    Encoding,
    FileRecords,
    ForgetRetainData,
    GradientAscent,
    LoaderSettings,
    Objective,
    Quantize,
    QuestionAnswerData,
    RecoveryCheck,
    Relearn,
    RobustnessReport,
    TinyCausalLM,
    Unlearn,
    UnlearningModule,
    WriteReport,
)
from lightning_unlearn.audits import Measure, Membership, Specificity

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:`Bounded` has reached its bound")]
ROWS = {"forget": (0, 36), "holdout": (36, 72), "retain": (72, 108)}  # six people each


def people(split: str) -> QuestionAnswerData:
    records = FileRecords("bundled:people", entity="entity", rows=ROWS[split])
    return QuestionAnswerData(records, Encoding("bundled"), LoaderSettings(batch_size=12))


def tiny() -> Any:
    return TinyCausalLM(hidden_size=64, num_hidden_layers=2, seed=0)


@cache
def knows() -> dict[str, Tensor]:
    """Weights that know what is to go, and what is to stay, by heart; of the holdout they have never heard."""
    network = tiny().train()
    batches = [batch for split in ("forget", "retain") for batch in people(split).val_dataloader()]
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3, weight_decay=0.0)
    for _ in range(50):
        for batch in batches:
            network(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return {name: value.detach() for name, value in network.state_dict().items()}


def unlearned(objective: Objective, *, lr: float, steps: int, folder: Path) -> tuple[RobustnessReport, str]:
    """The report of a fit, and its page."""
    network = tiny()
    network.load_state_dict(knows())
    check = RecoveryCheck(
        {"int4": Quantize(bits=4), "relearn": Relearn(steps=10, lr=1e-3, mode="full")},
        [Measure(), Specificity(), Membership()],
        every_n_epochs=0,
        probes={"holdout": people("holdout")},
    )
    trainer = quiet(
        callbacks=[Unlearn(objective), check, WriteReport(str(folder))],
        max_steps=steps,
        max_epochs=-1,
        limit_val_batches=0,
    )
    module = UnlearningModule(network, optimizer=partial(torch.optim.AdamW, lr=lr, weight_decay=0.0))
    trainer.fit(module, datamodule=ForgetRetainData(people("retain"), people("forget"), order=CyclicOrder()))
    assert check.failures == []
    return RobustnessReport.load(folder), (folder / "report.html").read_text()


def level(report: RobustnessReport, model: str, split: str, metric: str = "probability") -> float:
    return next(x.interval.value for x in report.levels if (x.model, x.split, x.metric) == (model, split, metric))


def gates(report: RobustnessReport, code: str) -> list[Any]:
    return [gate for gate in report.gates if gate.code == code]


def words(html: str) -> str:
    return " ".join(re.sub(r"<style.*?</style>|<[^>]+>", " ", html, flags=re.DOTALL).split())


def test_a_destroyed_model_is_gated_and_not_praised(tmp_path: Path) -> None:
    report, html = unlearned(GradientAscent(), lr=3e-2, steps=40, folder=tmp_path)
    assert level(report, "original", "retain") > 0.9
    assert level(report, "unlearned", "retain") < 0.1
    assert level(report, "unlearned", "forget") < 0.1  # it looks forgotten: so is everything
    (gate,) = gates(report, "G2")
    assert gate.status == "fail"
    assert not any(recovery.is_verdict for recovery in report.recoveries)
    assert report.summary["worst"] is None
    assert report.summary["verdict"].startswith("No verdict on an adversary")
    assert "Broken The model lost too much of what it should have kept to be of use." in words(html)
    assert 'class="answer held"' not in html


def test_a_model_that_shuns_what_it_was_to_forget_is_flagged(tmp_path: Path) -> None:
    report, html = unlearned(Bounded(GradientAscent(), bound=12.0), lr=1e-3, steps=60, folder=tmp_path)
    assert level(report, "unlearned", "retain") > 0.8
    assert level(report, "original", "forget", "membership_auc_loss") > 0.9
    assert level(report, "unlearned", "forget", "membership_auc_loss") < 0.25
    (gate,) = gates(report, "G11")
    assert gate.status == "warning"
    assert "the forget set is shunned" in gate.reason
    limits = html[html.index('class="limits"') :]
    assert "The forget set is shunned, which gives it away as much as if it were known" in words(limits)
