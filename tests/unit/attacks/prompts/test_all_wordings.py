"""Of several wordings together: the best or the mean for each example, with texts that belong to the scores."""

from __future__ import annotations

import math
from typing import Any

import pytest

from lightning_unlearn.attacks.prompts import AnyWording, Paraphrase, PrefixInjection, Templates, TypicalWording
from lightning_unlearn.data import QuestionAnswer
from lightning_unlearn.observation import Observation

WHO = ["Ada", "Ada", "Bo"]


def seen(scores: list[float], texts: str = "", metric: str = "probability", **about: Any) -> Observation:
    about = {"entities": WHO[: len(scores)], **about}
    return Observation(metric, "forget", sum(scores) / len(scores), scores=scores, texts=list(texts), **about)


def best(*observations: Observation) -> Observation:
    (found,) = AnyWording([PrefixInjection()]).conclude([[o] for o in observations])
    return found


def test_any_wording_is_the_best_of_each_example_with_its_text() -> None:
    found = best(seen([0.1, 0.8, 0.3], "abc"), seen([0.5, 0.2, 0.3], "def"))
    assert found.scores == [0.5, 0.8, 0.3]
    assert found.texts == ["d", "b", "c"]
    assert found.entities == WHO
    assert found.value == pytest.approx(1.6 / 3)


def test_where_less_means_more_known_the_best_is_the_least() -> None:
    assert best(seen([1.0, 2.0], higher_means_known=False), seen([3.0, 0.5], higher_means_known=False)).scores == [
        1,
        0.5,
    ]


def test_the_curve_over_wordings_never_falls_and_ends_above_each_of_them() -> None:
    wordings = [seen([0.1, 0.8, 0.3]), seen([0.5, 0.2, 0.3]), seen([0.2, 0.1, 0.9])]
    values = [best(*wordings[:k]).value for k in (1, 2, 3)]
    assert values == sorted(values)
    assert values[-1] >= max(o.value for o in wordings)


def test_an_example_that_one_wording_leaves_out_is_of_the_others() -> None:
    found = best(
        seen([0.1, 0.9], "ac", examples=[0, 2], entities=["Ada", "Bo"]),
        seen([0.5, 0.4], "de", examples=[0, 1], entities=["Ada", "Ada"]),
    )
    assert (found.examples, found.scores, found.texts) == ([0, 1, 2], [0.5, 0.4, 0.9], ["d", "e", "c"])
    assert found.entities == WHO


def test_a_comparison_with_chance_is_the_mean_since_its_best_is_above_chance_for_guesses() -> None:
    assert best(seen([0.0, 1.0], metric="specificity"), seen([1.0, 0.0], metric="specificity")).scores == [0.5, 0.5]


def test_scores_that_are_no_numbers_are_never_the_best() -> None:
    assert best(seen([math.nan, 0.2]), seen([0.1, math.nan])).scores == [0.1, 0.2]
    assert math.isnan(best(seen([math.nan])).scores[0])


def test_a_value_without_scores_is_the_best_of_the_wordings_with_its_interval() -> None:
    rates = [Observation("auc", "forget", v, interval=(v - 0.1, v + 0.1)) for v in (0.6, 0.8, 0.7)]
    found = best(*rates)
    assert (found.value, found.interval) == (0.8, rates[1].interval)


def test_metrics_splits_and_layers_are_kept_apart() -> None:
    groups = [seen([0.1]), seen([0.9], metric="rouge"), Observation("probability", "retain", 0.4, scores=[0.4])]
    found = AnyWording([PrefixInjection()]).conclude([groups, [seen([0.3])]])
    assert {(o.metric, o.split): o.scores for o in found} == {
        ("probability", "forget"): [0.3],
        ("rouge", "forget"): [0.9],
        ("probability", "retain"): [0.4],
    }


def test_the_typical_wording_is_the_mean_and_says_nothing_itself() -> None:
    attack = TypicalWording([Templates(["A {question}", "B {question}"])])
    (found,) = attack.conclude([[seen([0.1, 0.8], "ab")], [seen([0.5, 0.2], "cd")]])
    assert found.scores == pytest.approx([0.3, 0.5])
    assert found.texts == ["", ""]
    assert attack.conclude([[seen([0.1, 0.8])]]) == []  # not yet: the worst of several means would be none


def test_any_wording_begins_with_the_question_as_it_is_which_may_always_be_asked() -> None:
    row = QuestionAnswer("Who employs Ada?", "The post office", entity="Ada", source="row 0")
    attack = AnyWording([PrefixInjection()])
    assert list(attack.points) == [1, 2, 3, 4, 5]
    assert attack.asks([row], split="forget", point=1) == [row]
    assert "as it is" in attack.wording(1)


def test_its_points_are_the_wordings_of_its_attacks_in_their_order() -> None:
    attack = TypicalWording([Paraphrase(2), PrefixInjection()])
    told = [attack.about(k)["wording"] for k in attack.points]
    assert told == [
        *(f"Wording {k} is the last so far, Paraphrase: {Paraphrase(2).wording(k)}" for k in (1, 2)),
        *(f"Wording {k} is the last so far, PrefixInjection: {t}" for k, t in enumerate(PrefixInjection.default, 3)),
    ]
    assert attack.unit == "wordings"
