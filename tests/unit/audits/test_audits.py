"""What every audit keeps: the network as it was, a score per example in the order of the data, and bounds."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from _ranks import run_ranks
from torch import nn
from torch.utils.data import DataLoader, Dataset

from lightning_unlearn import Encoding, FileRecords, QuestionAnswerData, TinyCausalLM
from lightning_unlearn.audits import (
    TOFU,
    AnswerRank,
    Audit,
    BucketFlips,
    ExactLeak,
    Familiarity,
    Generation,
    GradientNorm,
    HalfRecall,
    LogitLens,
    Measure,
    Membership,
    SampledLeak,
    ScoringAudit,
    SharedScores,
    Specificity,
    Verbatim,
)
from lightning_unlearn.data import Probe, load_probe
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.metrics import AnswerLogProbability, AnswerProbability, ExactMemorization, TruthRatio
from lightning_unlearn.observation import Observation
from lightning_unlearn.readouts import PackedCausalLMReadout
from lightning_unlearn.runtime import checksum

AUDITS: dict[str, Callable[[], Audit]] = {
    "measure": Measure,
    "membership": Membership,
    "gradient_norm": GradientNorm,
    "familiarity": lambda: Familiarity(stored="holdout"),
    "answer_rank": lambda: AnswerRank(alternates=99),
    "lens": LogitLens,
    "exact_leak": ExactLeak,
    "generation": lambda: Generation("bundled", max_new_tokens=5),
    "half_recall": lambda: HalfRecall("bundled"),
    "sampled_leak": lambda: SampledLeak("bundled", k=(1, 2), per_round=2, samples=4, max_new_tokens=3),
    "specificity": lambda: Specificity(alternates=99),  # all others, so that the order of the data decides nothing
    "tofu": lambda: TOFU("bundled", max_new_tokens=4),
    "verbatim": lambda: Verbatim("bundled", prefixes=(1, 2), continuation=3),
}
WITHOUT_SCORES: dict[str, Callable[[], Audit]] = {"bucket_flips": BucketFlips}
every_audit = pytest.mark.parametrize("audit", [make() for make in AUDITS.values()], ids=AUDITS)
ROWS = (0, 7)
HOLDOUT = (60, 67)
SPLITS = {"retain": [6, 5, 4, 3], "others": [0, 2]}
WRONG = 2
"""Wrong answers to each question."""


class Turned(Dataset[Any]):
    """A data set in another order."""

    def __init__(self, inner: Any, order: list[int]) -> None:
        self.inner, self.order = inner, order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> Any:
        return self.inner[self.order[index]]

    @property
    def entities(self) -> list[str]:
        return [self.inner.entities[i] for i in self.order]


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return TinyCausalLM(hidden_size=32, num_hidden_layers=1)


def asked(order: list[int] | None = None, rows: tuple[int, int] = ROWS) -> DataLoader[Any]:
    data = QuestionAnswerData(FileRecords("bundled:people", entity="entity", rows=rows), Encoding("bundled"))
    data_set = data.dataset if order is None else Turned(data.dataset, order)
    return DataLoader(data_set, 3, collate_fn=data.val_dataloader().collate_fn)


def wrong(order: list[int] | None = None) -> DataLoader[Any]:
    """Two wrong answers to each question: right ones, to the same questions in their turn, will do."""
    return asked([row for row in order or range(*ROWS) for _ in range(WRONG)])


def probes(
    rank: int = 0, world_size: int = 1, order: list[int] | None = None, audit: Audit | None = None
) -> dict[str, Probe]:
    loaders = {"forget": asked(order), "holdout": asked(order, HOLDOUT)}
    if isinstance(audit, TOFU):
        loaders |= {split: asked(order) for split in ("retain", "real_authors", "world_facts")}
        loaders |= {f"{split}_perturbed": wrong(order) for split in loaders if split != "holdout"}
    return {split: load_probe(each, PackedCausalLMReadout(), rank, world_size) for split, each in loaders.items()}


def observe(audit: Audit, net: nn.Module, of: dict[str, Probe]) -> list[Observation]:
    about: dict[str, Any] = {"readout": PackedCausalLMReadout(), "probes": of, "engine": GradientEngine(net)}
    if audit.needs_control:
        audit.see_control(net, **about)
    return audit(net, **about)


def state_of(net: nn.Module) -> tuple[Any, ...]:
    return (
        checksum(net),
        [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in net.modules()],
        [(p.requires_grad, p._version, None if p.grad is None else p.grad.tolist()) for p in net.parameters()],
        (torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()),
        (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
    )


@pytest.mark.parametrize("name", {**AUDITS, **WITHOUT_SCORES})
def test_the_network_is_as_it_was(name: str) -> None:
    audit, net = {**AUDITS, **WITHOUT_SCORES}[name](), network().train()
    audit.see_original(net)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.01)
    next(m for m in net.modules() if isinstance(m, nn.Linear)).eval()  # modes differ
    first = next(net.parameters())
    first.grad = torch.ones_like(first)
    before = state_of(net)
    assert observe(audit, net, probes(audit=audit))
    assert state_of(net) == before


@every_audit
def test_a_score_for_each_example_in_the_order_of_the_data(audit: Audit) -> None:
    turned = list(reversed(range(*ROWS)))
    asked_of = probes(audit=audit), probes(order=turned, audit=audit)
    found = [observe(audit, network(), each) for each in asked_of]
    scored = [[o for o in each if o.scores] for each in found]  # an AUC of two splits has none
    assert scored[0]
    for there, back in zip(*scored, strict=True):
        assert len(there.scores) == len(there.entities) == len(turned)
        assert back.scores == pytest.approx(there.scores[::-1], abs=1e-5)
        assert back.entities == there.entities[::-1]


@every_audit
def test_values_are_means_of_scores_within_bounds(audit: Audit) -> None:
    found = observe(audit, network(), probes(audit=audit))
    assert {o.metric for o in found} == set(audit.definitions())
    for o in found:
        low, high = o.bounds or (0.0, float("inf"))
        assert all(low <= score <= high for score in o.scores)
        assert low <= o.value <= high
        assert not o.scores or o.value == pytest.approx(sum(o.scores) / len(o.scores))
        assert (o.subject, o.step, o.attack) == ("unlearned", 0, "none")  # which are for the check to fill in


@every_audit
def test_a_split_without_scores_has_no_observation(audit: Audit) -> None:
    unsupervised = {k: v if k != "labels" else torch.full_like(v, -100) for k, v in next(iter(asked())).items()}
    readout = PackedCausalLMReadout()
    for loader in ([], [unsupervised]):
        nothing = {split: load_probe(loader, readout) for split in ("forget", "forget_perturbed", "holdout")}
        assert observe(audit, network(), nothing) == []


def test_two_processes_observe_what_one_does() -> None:
    """Three batches for two ranks: one batch is run twice, and counted once."""

    def on_rank(rank: int, world_size: int) -> list[list[Observation]]:
        torch.distributed.init_process_group("gloo")
        return [
            observe(audit, network(), probes(rank, world_size, audit=audit))
            for audit in (make() for make in AUDITS.values())
        ]

    alone = [observe(audit, network(), probes(audit=audit)) for audit in (make() for make in AUDITS.values())]
    first, second = run_ranks(on_rank)
    assert first == second
    for mine, theirs in zip(alone, first, strict=True):
        assert [(o.metric, o.entities) for o in theirs] == [(o.metric, o.entities) for o in mine]
        for o, other in zip(mine, theirs, strict=True):
            assert other.scores == pytest.approx(o.scores, abs=1e-6)


@every_audit
def test_a_split_says_the_same_whatever_splits_are_asked_beside_it(audit: Audit) -> None:
    # Several batches each: the hash of a torchmetrics metric follows its state, which changes from split to split.
    net, few = network(), {**probes(), "forget_perturbed": load_probe(wrong(), PackedCausalLMReadout())}
    several = {name: load_probe(asked(order), PackedCausalLMReadout(), 0, 1) for name, order in SPLITS.items()}
    alone = observe(audit, net, few)
    assert alone
    beside = observe(audit, net, {**few, **several})
    assert [o for o in beside if o.split not in SPLITS] == alone


def test_one_pass_over_each_split_serves_every_audit_of_scores() -> None:
    net, readout = network(), PackedCausalLMReadout()
    passes: list[int] = []
    handle = net.register_forward_hook(lambda *_: passes.append(1))
    of = {split: load_probe(asked(order), readout) for split, order in (("forget", [0, 1, 2, 3]), ("retain", [4, 5]))}
    memorised = Measure({"memorised": ExactMemorization()})
    audits: list[ScoringAudit] = [Measure(), memorised, Membership(holdout="retain"), ExactLeak()]
    shared = SharedScores(audits, net, readout, of, GradientEngine(net))
    together = [shared.conclusion_of(audit) for audit in audits]
    handle.remove()
    assert len(passes) == sum(len(probe.batches) for probe in of.values())
    assert together == [observe(audit, net, of) for audit in audits]


def test_a_metric_that_fails_takes_only_its_own_audit_with_it() -> None:
    class Failing(AnswerProbability):
        def scores_of(self, prediction: Any) -> Any:
            raise RuntimeError("no memory")

    net, readout = network(), PackedCausalLMReadout()
    working, failing = Measure(), Measure({"other": Failing()})
    shared = SharedScores([failing, working], net, readout, probes(), GradientEngine(net))
    with pytest.raises(RuntimeError, match="no memory"):
        shared.conclusion_of(failing)
    assert shared.conclusion_of(working) == observe(working, net, probes())


def test_so_does_one_whose_scores_cannot_be_made_of_what_it_saw() -> None:
    """Wrong answers are missing: no question has six."""
    net, readout = network(), PackedCausalLMReadout()
    working, failing = Measure(), Measure({"ratio": TruthRatio()})
    shared = SharedScores([failing, working], net, readout, probes(), GradientEngine(net))
    with pytest.raises(ValueError, match="Each question should have 6 answers in a row"):
        shared.conclusion_of(failing)
    assert shared.conclusion_of(working) == observe(working, net, probes())


def test_bounds_that_are_not_finite_are_none() -> None:
    """Half of a range has no width: an attack that needs a twentieth of it would need infinitely much."""
    net = network()
    found = observe(Measure({"log_p": AnswerLogProbability(), "p": AnswerProbability()}), net, probes())
    assert {(o.metric, o.bounds) for o in found} == {("log_p", None), ("p", (0.0, 1.0))}
