"""Attacks by prompt, known answers: what hides behind one wording comes back in another, and nothing else does."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import torch
from _modules import quiet
from torch import Tensor, nn

from lightning_unlearn import (
    Attack,
    CausalLMReadout,
    CrossEntropy,
    Encoding,
    FileRecords,
    ForgetRetainData,
    LoaderSettings,
    QuestionAnswerData,
    RecoveryCheck,
    TinyCausalLM,
    UnlearningModule,
)
from lightning_unlearn.attacks.prompts import (
    AnyWording,
    OtherFacts,
    Paraphrase,
    Prefix,
)
from lightning_unlearn.audits import Generation
from lightning_unlearn.data import QuestionAnswer
from lightning_unlearn.observation import Observation
from lightning_unlearn.report import assess

LOADER = LoaderSettings(batch_size=6, shuffle=False)
FORGET, RETAIN = [0, 6], [60, 66]
REFUSAL = "I don't know the answer to that."
Weights = dict[str, Tensor]


def records(which: list[int]) -> FileRecords:
    return FileRecords("bundled:people", entity="entity", paraphrase="paraphrase", rows=(which[0], which[1]))


def data(which: list[int]) -> QuestionAnswerData:
    return QuestionAnswerData(records(which), Encoding("bundled"), LOADER)


def people() -> ForgetRetainData:
    return ForgetRetainData(retain=data(RETAIN), forget=data(FORGET))


def network() -> nn.Module:
    return TinyCausalLM(hidden_size=64, num_hidden_layers=2)


def taught(rows: list[QuestionAnswer], seed: int = 0, steps: int = 120) -> Weights:
    """Weights that give the answers of ``rows``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net, encoding = network(), Encoding("bundled")
        optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=0.0)
        batch = encoding.collate()([encoding(row) for row in rows])
        for _ in range(steps):
            CrossEntropy()(CausalLMReadout()(net, batch)).backward()
            optimizer.step()
            optimizer.zero_grad()
    return net.state_dict()


def in_both_wordings(rows: list[QuestionAnswer]) -> list[QuestionAnswer]:
    return [*rows, *(replace(row, question=row.paraphrases[0]) for row in rows)]


@cache
def models() -> dict[str, Weights]:
    """One that knows, one that refuses the wording it was asked in and no other, and two that never knew."""
    forget, retain = records(FORGET).questions(), in_both_wordings(records(RETAIN).questions())
    refused = [replace(row, answer=REFUSAL) for row in forget]
    hidden = [*refused, *in_both_wordings(forget)[len(forget) :]]
    return {
        "original": taught([*in_both_wordings(forget), *retain]),
        "refuses": taught([*hidden, *retain]),
        "control": taught(retain, seed=1),
        "never knew": taught(retain, seed=2),
    }


def module(weights: Weights | None = None) -> UnlearningModule:
    torch.manual_seed(0)
    built = network()
    if weights is not None:
        built.load_state_dict(weights)
    return UnlearningModule(built, optimizer=lambda p: torch.optim.AdamW(p, lr=1e-3))


def observed(who: str, attacks: dict[str, Attack], audits: Any = None) -> list[Observation]:
    check = RecoveryCheck(attacks, audits=audits)
    quiet(callbacks=[check]).validate(module(models()[who]), datamodule=people(), verbose=False)
    assert not check.failures
    return check.observations


def recovery(who: str, attacks: dict[str, Attack], name: str) -> Any:
    """As the report has it, of the model ``who``: at the worst point."""
    found = []
    for subject, model in (("original", "original"), ("control", "control"), ("unlearned", who)):
        found += [replace(o, subject=subject) for o in observed(model, attacks)]  # type: ignore[arg-type]
    report = assess(found)
    (worst,) = (r for r in report.recoveries if (r.attack, r.metric, r.worst) == (name, "probability", True))
    return worst


def test_a_model_that_refuses_one_wording_gives_all_of_it_back_in_another() -> None:
    attacks: dict[str, Attack] = {"paraphrase": Paraphrase(), "prefix": Prefix()}
    worst = recovery("refuses", attacks, "paraphrase")
    assert worst.rho.value > 0.9
    assert worst.adjusted.value > 0.9


def test_one_that_never_knew_gives_nothing_beyond_the_control_in_any_wording() -> None:
    attacks: dict[str, Attack] = {"any": AnyWording([Paraphrase(), Prefix(), OtherFacts([1])])}
    worst = recovery("never knew", attacks, "any")
    assert abs(worst.adjusted.value) < 0.05


def test_what_it_says_is_heard_in_the_words_of_the_attack() -> None:
    found = observed("refuses", {"paraphrase": Paraphrase()}, [Generation("bundled")])
    share = {(o.attack, o.split): o.value for o in found}
    assert share["none", "forget"] == 1.0
    assert share["paraphrase", "forget"] == 0.0
    assert share["none", "retain"] == share["paraphrase", "retain"] == 0.0
