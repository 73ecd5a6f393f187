"""What was repeated more often is known better; what was not repeated is at chance; a shunned dose turns the trend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _membership import probe
from scipy.stats import spearmanr

from lightning_unlearn import CausalLMReadout
from lightning_unlearn.audits import DoseResponse
from lightning_unlearn.metrics import AnswerProbability
from lightning_unlearn.observation import Observation
from lightning_unlearn.readouts import Exchange, TrainingStepReadout
from lightning_unlearn.runtime import Misfit

COUNTS = {f"author {i}": (0, 1, 4, 16)[i % 4] for i in range(80)}
WHO = [name for name in COUNTS for _ in range(3)]


def observed(slope: float, seed: int = 0, **settings: Any) -> dict[tuple[str, str], Observation]:
    """Losses that fall with the logarithm of the dose."""
    generator = np.random.default_rng(seed)
    of_author = generator.normal(0, 0.5, 80).repeat(3)
    losses = of_author + generator.normal(0, 1, 240) - slope * np.log1p([COUNTS[name] for name in WHO])
    audit = DoseResponse(COUNTS, draws=200, **settings)
    audit.metrics(CausalLMReadout())
    found = audit.conclude({"doses": {"loss": losses.tolist()}}, {"doses": probe(WHO)})
    assert {o.metric for o in found} <= set(audit.definitions())
    return {(o.metric, o.split): o for o in found}


def test_repetitions_show_and_unlearning_them_turns_the_trend() -> None:
    taught, untaught, shunned = (observed(slope, seed=1) for slope in (1.0, 0.0, -1.0))
    trends = [each["dose_trend_loss", "doses"] for each in (taught, untaught, shunned)]
    assert [o.interval[0] > 0 for o in trends] == [True, False, False]  # type: ignore[index]
    assert [o.interval[1] < 0 for o in trends] == [False, False, True]  # type: ignore[index]
    rises = [each["dose_rise_loss", "doses"].value for each in (taught, untaught, shunned)]
    assert rises[0] > 0.4 > 0.15 > rises[1] >= rises[2] == 0.0


def test_each_dose_is_told_from_none_better_than_the_one_before() -> None:
    found = observed(1.0)
    aucs = [found["dose_auc_loss", f"doses_x{dose}"] for dose in (1, 4, 16)]
    assert [o.value for o in aucs] == sorted(o.value for o in aucs)
    assert aucs[2].value > 0.9
    for o in (found := observed(0.0, seed=1)).values():
        if o.metric == "dose_auc_loss":
            assert o.interval[0] <= 0.5 <= o.interval[1]  # type: ignore[index]
    assert ("dose_auc_loss", "doses_x0") not in found


@pytest.mark.slow
def test_intervals_cover_no_trend_about_as_often_as_they_say() -> None:
    hits = 0
    for seed in range(40):
        low, high = observed(0.0, seed)["dose_trend_loss", "doses"].interval  # type: ignore[misc]
        hits += low <= 0 <= high
    assert hits >= 34  # 95 % of 40 are 38; 34 or more have a probability of 99 %


def test_scores_of_any_direction_mean_the_same() -> None:
    audit = DoseResponse(COUNTS, scores={"p": AnswerProbability()}, draws=20)
    known = [COUNTS[name] / 17 for name in WHO]
    found = audit.conclude({"doses": {"p": known}}, {"doses": probe(WHO)})
    assert found[0].value == pytest.approx(spearmanr(known, known).statistic)


@pytest.mark.parametrize("marked", [False, True])
def test_doses_that_were_not_drawn_at_random_show(marked: bool) -> None:
    """Where a word stands in all texts of the highest dose, it is told from dose 0 without a model."""
    generator = np.random.default_rng(0)
    exchanges = []
    for name in WHO:
        words = generator.integers(0, 40, size=8).tolist()
        sign = [99] if marked and COUNTS[name] == 16 else []
        exchanges.append(Exchange(torch.tensor(words[:4]), torch.tensor(words[4:] + sign)))
    audit = DoseResponse(COUNTS, draws=20)
    found = audit.conclude({"doses": {"loss": [1.0] * 240}}, {"doses": probe(WHO, exchanges)})
    (blind,) = [o for o in found if o.metric == "dose_blind_auc"]
    assert blind.interval is not None
    assert (blind.interval[0] > 0.6) is marked
    assert (blind.interval[0] <= 0.5 <= blind.interval[1]) is not marked


def test_counts_may_stand_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "counts.json"
    path.write_text(json.dumps(COUNTS))
    assert DoseResponse(str(path)).counts == COUNTS


def test_what_cannot_be_compared_is_refused_with_the_way_out() -> None:
    scores = {"doses": {"loss": [1.0, 2.0]}}
    with pytest.raises(Misfit, match=r"as a split `doses`. Found `forget`. Give them as `RecoveryCheck"):
        DoseResponse(COUNTS).conclude(scores, {"forget": probe(["a", "b"])})
    with pytest.raises(Misfit, match=r"how often each entity of `doses` was repeated. Found none for `Zoe` and 1 more"):
        DoseResponse(COUNTS).conclude(scores, {"doses": probe(["Zoe", "Yan"])})
    with pytest.raises(Misfit, match=r"`counts` should differ between entities. Found 3 for all"):
        DoseResponse({"a": 3, "b": 3}).conclude(scores, {"doses": probe(["a", "b"])})
    with pytest.raises(Misfit, match="`TokenNLL`, the score `loss`, should get logits"):
        DoseResponse(COUNTS).metrics(TrainingStepReadout())
    with pytest.raises(ValueError, match="`counts` should be at least 0"):
        DoseResponse({"a": -1})
