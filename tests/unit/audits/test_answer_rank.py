"""The rank among answers of others, and recognition between two: chance for ties, one for what was taught."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from _membership import people, people_probes, untaught
from torch import nn

from lightning_unlearn import CausalLMReadout, ClassificationReadout, CrossEntropy
from lightning_unlearn.audits import AnswerRank, Specificity
from lightning_unlearn.data import load_probe
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.observation import Observation


def observe(net: nn.Module, audit: Any, readout: Any, probes: Any) -> dict[tuple[str, str], Observation]:
    found = audit(net, readout=readout, probes=probes, engine=GradientEngine(net))
    return {(o.metric, o.split): o for o in found}


def classes(logits: list[list[float]], labels: list[int]) -> Any:
    """Inputs that are their own logits."""
    return load_probe([(torch.tensor(logits), torch.tensor(labels))], ClassificationReadout())


def identity(width: int) -> nn.Module:
    net = nn.Linear(width, width, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.eye(width))
    return net


def test_rank_and_recognition_are_those_of_the_logits_and_ties_count_half() -> None:
    logits = [[3.0, 2.0, 1.0, 0.0], [0.0, 1.0, 2.0, 2.0], [1.0, 1.0, 1.0, 1.0], [9.0, 0.0, 0.0, 1.0]]
    probes = {"forget": classes(logits, [0, 1, 2, 3])}
    found = observe(identity(4), AnswerRank(alternates=3), ClassificationReadout(), probes)
    assert found["answer_rank", "forget"].scores == pytest.approx([1.0, 1 / 3, 0.5, 2 / 3])
    # Without questions the first alternate is the answer of the next example.
    assert found["recognition", "forget"].scores == [1.0, 0.0, 0.5, 0.0]
    assert {split for _, split in found} == {"forget"}  # there is no holdout


def test_on_the_forget_split_the_rank_is_specificity() -> None:
    net, probes = untaught(), people_probes()
    rank = observe(net, AnswerRank(alternates=3), CausalLMReadout(), probes)["answer_rank", "forget"]
    specificity = observe(net, Specificity(alternates=3), CausalLMReadout(), probes)["specificity", "forget"]
    assert rank.scores == specificity.scores


@pytest.mark.slow
def test_what_was_taught_is_recognised_and_the_holdout_is_not() -> None:
    net, rows = untaught(), {"forget": (0, 12), "holdout": (48, 60)}
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    (batch,) = people(rows["forget"])
    for _ in range(120):
        CrossEntropy()(CausalLMReadout()(net, batch)).backward()
        optimizer.step()
        optimizer.zero_grad()
    probes = {split: load_probe(people(of), CausalLMReadout()) for split, of in rows.items()}
    found = observe(net, AnswerRank(alternates=5), CausalLMReadout(), probes)
    assert found["recognition", "forget"].value > 0.95
    assert found["answer_rank", "forget"].value > 0.95
    assert found["recognition", "holdout"].value < 0.75
    assert found["membership_auc_answer_rank", "forget"].value > 0.7


def test_each_split_has_the_answers_of_its_own() -> None:
    """Other classes in the holdout: nobody mistakes them for answers of the forget split."""
    forget, holdout = classes([[1.0, 0.0, 5.0, 5.0]] * 2, [0, 1]), classes([[5.0, 5.0, 1.0, 0.0]] * 2, [2, 3])
    found = observe(identity(4), AnswerRank(), ClassificationReadout(), {"forget": forget, "holdout": holdout})
    assert found["answer_rank", "forget"].scores == [1.0, 0.0]
    assert found["answer_rank", "holdout"].scores == [1.0, 0.0]
    assert found["membership_auc_answer_rank", "forget"].value == 0.5
