"""A memorised model is recognised, an untaught one is not, one that shuns its forget set is; and so is a bad holdout."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from _membership import people_probes, probe, taught, untaught
from torch import nn

from lightning_unlearn import CausalLMReadout, FileRecords
from lightning_unlearn.audits import Measure, Membership
from lightning_unlearn.audits.membership import Comparison, blind_baseline
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.metrics import AnswerProbability, MinK, TokenNLL
from lightning_unlearn.models import load_tokenizer
from lightning_unlearn.observation import Observation
from lightning_unlearn.readouts import Exchange, TrainingStepReadout
from lightning_unlearn.runtime import Misfit

SCORES = ("loss", "zlib", "min_k", "min_k_plus_plus")


def observe(net: nn.Module, audit: Membership | None = None) -> dict[str, Observation]:
    audit = audit or Membership()
    found = audit(net, readout=CausalLMReadout(), probes=people_probes(), engine=GradientEngine(net))
    return {o.metric: o for o in found}


def concluded(forget: Any, holdout: Any, who: tuple[list[str], list[str]], **settings: Any) -> dict[str, Observation]:
    """What is said of these losses, without a network."""
    audit = Membership({"loss": TokenNLL()}, **settings)
    scores = {"forget": {"loss": list(forget)}, "holdout": {"loss": list(holdout)}}
    found = audit.conclude(scores, {"forget": probe(who[0]), "holdout": probe(who[1])})
    return {o.metric: o for o in found}


def test_untaught_models_give_nothing_away() -> None:
    covered = []
    for seed in range(4):
        found = observe(untaught(seed))
        for name in SCORES:
            low, high = found[f"membership_auc_{name}"].interval  # type: ignore[misc]
            covered.append(low <= 0.5 <= high)
            assert (found[f"advantage_{name}"].interval[0] == 0) is covered[-1]  # type: ignore[index]
    assert np.mean(covered) > 0.7  # the ten people of each set are the same throughout


@pytest.mark.slow
def test_a_memorised_model_is_recognised_and_one_that_shuns_its_forget_set_is_too() -> None:
    memorised = taught(untaught(), epochs=25, sign=1.0, lr=3e-3)
    known = observe(memorised)
    shunned = observe(taught(memorised, epochs=14, sign=-1.0, lr=1e-3))
    for name in SCORES:
        assert known[f"membership_auc_{name}"].value > 0.85
        assert shunned[f"membership_auc_{name}"].interval[1] < 0.4  # type: ignore[index]
        for found in (known, shunned):
            assert found[f"advantage_{name}"].interval[0] > 0.1  # type: ignore[index]
    assert known["membership_auc_loss"].value > 0.97
    assert known["tpr_at_1pct_loss"].value > 0.5
    assert shunned["membership_auc_loss"].value < 0.1
    assert shunned["tpr_at_1pct_loss"].value == 0.0


def test_of_many_untaught_models_few_seem_to_give_something_away() -> None:
    """200 times 30 authors with 3 losses each against as many: at a level of 95 % about ten intervals miss 0.5."""
    who = [f"author {i // 3}" for i in range(90)]
    missed = 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        forget, holdout = (generator.normal(0, 1, 30).repeat(3) + generator.normal(0, 1, 90) for _ in range(2))
        compared = Comparison(draws=300)(
            "loss",
            {"forget": forget, "holdout": holdout},
            {"forget": probe(who), "holdout": probe(who)},
            higher_means_known=False,
        )
        low, high = compared[0].interval or (0.0, 0.0)
        missed += not low <= 0.5 <= high
    assert 3 <= missed <= 22


def test_a_score_is_the_share_of_the_holdout_that_an_example_is_ahead_of() -> None:
    found = concluded([0.1, 3.0], [1.0, 2.0, 3.0], (["Ada", "Bo"], ["Cy", "Di", "Ed"]))
    auc = found["membership_auc_loss"]
    assert auc.scores == pytest.approx([1.0, 1 / 6])  # lower losses are better known; a tie counts half
    assert (auc.split, auc.entities, auc.bounds, auc.higher_means_known) == ("forget", ["Ada", "Bo"], (0.0, 1.0), True)
    assert found["advantage_loss"].value == pytest.approx(abs(2 * auc.value - 1))
    assert found["tpr_at_1pct_loss"].scores == [1.0, 0.0]
    assert {o.split for o in found.values()} == {"forget", "forget_vs_holdout"}


def test_scores_that_rise_with_knowledge_point_the_same_way() -> None:
    rising = Membership({"p": AnswerProbability()})
    falling = Membership({"p": TokenNLL()})
    probes = {"forget": probe(["a", "b"]), "holdout": probe(["c", "d"])}
    known, unknown = {"p": [0.9, 0.8]}, {"p": [0.1, 0.2]}
    for audit, forget, holdout in ((rising, known, unknown), (falling, unknown, known)):
        aucs = [o.value for o in audit.conclude({"forget": forget, "holdout": holdout}, probes) if "auc" in o.metric]
        assert aucs == [1.0]


def test_scores_that_are_no_numbers_are_no_membership() -> None:
    found = concluded([float("nan"), 1.0], [1.0, 2.0], (["a", "b"], ["c", "d"]))
    assert np.isnan(found["membership_auc_loss"].value)
    assert found["membership_auc_loss"].interval is None


def test_text_is_compressed_if_the_tokenizer_is_named() -> None:
    audit, tokenizer = Membership(tokenizer="bundled"), load_tokenizer("bundled")
    tokens = tokenizer("In the lighthouse village", add_special_tokens=False)["input_ids"]
    metric = audit.metrics(CausalLMReadout())["zlib"]
    assert metric.text_of(tokens) == "In the lighthouse village"  # type: ignore[operator]
    assert Membership().metrics(CausalLMReadout())["zlib"].text_of is None


def test_the_users_own_loss_is_a_score() -> None:
    class Regression(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return nn.functional.mse_loss(self.layer(batch[0]), batch[1])

    from lightning_unlearn.data import load_probe

    net, readout = Regression(), TrainingStepReadout()
    batches = [(torch.randn(4, 2), torch.randn(4, 1)) for _ in range(2)]
    probes = {s: load_probe([b], readout) for s, b in zip(("forget", "holdout"), batches, strict=True)}
    found = Membership()(net, readout=readout, probes=probes, engine=GradientEngine(net))
    assert [o.metric for o in found][:2] == ["membership_auc_loss", "advantage_loss"]
    with pytest.raises(Misfit, match=r"`AnswerProbability`, the score `p`, should get logits"):
        Membership({"p": AnswerProbability()}).metrics(readout)


def test_without_a_holdout_it_is_refused_with_the_way_out() -> None:
    net = untaught()
    of = {"forget": people_probes()["forget"], "retain": people_probes()["holdout"]}
    with pytest.raises(
        Misfit, match=r'no `holdout` among `forget`, `retain`\. Give them as `RecoveryCheck\(probes={"hol'
    ):
        Membership()(net, readout=CausalLMReadout(), probes=of, engine=GradientEngine(net))
    Measure()(net, readout=CausalLMReadout(), probes=of, engine=GradientEngine(net))  # others need none


def texts(seed: int, *, entities: int = 20, length: int = 12, extra: int | None = None) -> Any:
    """Questions and answers of a small vocabulary, 3 about each entity, whose name is a token of its own."""
    generator = np.random.default_rng(seed)
    exchanges, who = [], []
    for entity in range(entities * 3):
        name = 1000 * (seed + 1) + entity // 3
        tokens = generator.integers(0, 40, size=length).tolist()
        answer = [*tokens[6:], *([] if extra is None else [extra])]
        exchanges.append(Exchange(torch.tensor([name, *tokens[:6]]), torch.tensor(answer)))
        who.append(str(name))
    return probe(who, exchanges, key=f"{seed} {entities} {length} {extra}")


def test_sets_that_were_drawn_alike_are_at_chance_whatever_their_names() -> None:
    aucs, missed = [], 0
    for seed in range(0, 30, 2):
        blind = blind_baseline(texts(seed), texts(seed + 1), draws=60)
        assert blind is not None
        aucs.append(blind.auc)
        assert blind.interval[0] <= 0.6  # not refused
        missed += not blind.interval[0] <= 0.5 <= blind.interval[1]
    assert missed <= 3
    assert np.mean(aucs) == pytest.approx(0.5, abs=0.05)  # held-out entities: no leave-one-out artefact


@pytest.mark.parametrize("other", [{"extra": 77}, {"length": 15}], ids=["a word of its time", "length"])
def test_a_holdout_of_another_form_is_refused(other: dict[str, int]) -> None:
    forget, holdout = texts(0), texts(1, **other)
    empty = {split: {"loss": [1.0] * 60} for split in ("forget", "holdout")}
    with pytest.raises(Misfit, match=r"`holdout` should hold examples of the same kind .* or raise `most_blind`"):
        Membership({"loss": TokenNLL()}).conclude(empty, {"forget": forget, "holdout": holdout})
    tolerant = Membership({"loss": TokenNLL()}, most_blind=1.0)
    (blind,) = [o for o in tolerant.conclude(empty, {"forget": forget, "holdout": holdout}) if o.metric == "blind_auc"]
    assert blind.value > 0.9
    assert blind.split == "forget_vs_holdout"


def test_a_holdout_is_judged_once_and_not_in_the_words_of_an_attack() -> None:
    audit = Membership({"loss": TokenNLL()})
    empty = {split: {"loss": [1.0] * 60} for split in ("forget", "holdout")}
    audit.conclude(empty, {"forget": texts(0), "holdout": texts(1)})
    found = audit.conclude(empty, {"forget": texts(0), "holdout": texts(1, extra=77)})
    assert max(o.value for o in found if o.metric == "blind_auc") > 0.9  # said, and not refused


@pytest.mark.parametrize("split", ["forget", "retain"])
def test_a_holdout_that_was_trained_on_is_refused(split: str) -> None:
    empty = {name: {"loss": [1.0] * 60} for name in ("forget", "holdout")}
    of = {"forget": texts(0), "holdout": texts(1), "retain": texts(2)}
    of[split].exchanges[7] = of["holdout"].exchanges[8]  # type: ignore[index]
    with pytest.raises(Misfit, match=rf"that nobody was trained on. Found 1 of 60 that are in `{split}` as well"):
        Membership({"loss": TokenNLL()}).conclude(empty, of)


def test_few_entities_are_not_enough_to_refuse_and_one_is_not_enough_to_judge() -> None:
    assert blind_baseline(texts(0, entities=1), texts(1)) is None
    assert blind_baseline(replace(texts(0), exchanges=None), texts(1)) is None
    empty = {"forget": {"loss": [1.0] * 9}, "holdout": {"loss": [1.0] * 9}}
    few = {"forget": texts(0, entities=2), "holdout": texts(1, entities=2, extra=77)}
    found = Membership({"loss": TokenNLL()}).conclude(empty, few)
    (blind,) = [o for o in found if o.metric == "blind_auc"]
    assert blind.value > 0.9  # two entities each: swaps often say as much
    assert blind.interval[0] <= 0.6  # type: ignore[index]


def test_strangers_of_the_same_kind_pass() -> None:
    rows = FileRecords("bundled:people", entity="entity").questions()
    assert len({row.entity for row in rows}) == 20
    blind = blind_baseline(*people_probes().values())
    assert blind is not None
    assert blind.interval[0] <= 0.6


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="`scores` should hold at least one metric"):
        Membership({})
    with pytest.raises(ValueError, match=r"`most_blind` should be between 0.5 and 1. Found `most_blind = 0.2`"):
        Membership(most_blind=0.2)
    with pytest.raises(ValueError, match=r"`false_positive_rates` should be between 0 and 1"):
        Membership({"k": MinK()}, false_positive_rates=[1.0, 5.0])
