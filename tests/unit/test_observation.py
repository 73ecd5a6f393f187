"""An observation of some examples, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from lightning_unlearn.checks import merged
from lightning_unlearn.checks._records import MOST_ENTITIES, at_most_known, without_old_scores
from lightning_unlearn.observation import Observation
from lightning_unlearn.report.analysis._bootstrap import Bootstrap


def observed(**about: Any) -> Observation:
    given = {"scores": [0.1, 0.5, 0.9], "entities": ["Ada", "Bo", "Cy"], "texts": ["a", "b", "c"], **about}
    return Observation("probability", "forget", 0.5, **given)


def test_some_examples_keep_their_own_entities_texts_and_numbers() -> None:
    some = observed(interval=(0.0, 1.0)).at({0, 2})
    assert (some.scores, some.entities, some.texts, some.numbers) == ([0.1, 0.9], ["Ada", "Cy"], ["a", "c"], [0, 2])
    assert some.value == some.estimate == pytest.approx(0.5)
    assert some.interval is None  # it was of all of them
    assert some.at({2, 5}).numbers == [2]
    assert some.at({2}).at({0}).scores == []


def test_without_entities_examples_are_named_by_their_own_numbers() -> None:
    assert Observation("p", "forget", 0.5, scores=[0.1, 0.9], examples=[4, 7]).clusters == ["4", "7"]


@pytest.mark.parametrize("name", ["entities", "examples", "texts"])
def test_what_is_parallel_to_scores_is_as_long(name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` should have one entry per score. Found 1 {name} for 3 scores"):
        observed(**{name: [1] if name == "examples" else ["one"]})


def test_models_are_compared_by_the_examples_that_all_have() -> None:
    # An attacker trained on the first example, and is judged by the others.
    original, unlearned = observed(scores=[0.0, 1.0, 1.0]), observed(scores=[1.0, 0.0, 0.0])
    attacked = observed(scores=[1.0, 0.5, 0.5]).at({1, 2})
    recovery = Bootstrap(draws=50).recovery(original, unlearned, attacked)
    assert (recovery.value, recovery.examples, recovery.entities) == (0.5, 2, 2)


def test_an_interval_of_the_audits_own_is_not_resampled() -> None:
    level = Bootstrap(draws=50).level(observed(interval=(0.2, 0.8)))
    assert (level.value, level.low, level.high, level.entities) == (0.5, 0.2, 0.8, 3)


def test_layers_are_observations_and_log_keys_of_their_own() -> None:
    layers = [observed(layer=f"layers.{number}") for number in range(2)]
    assert merged([], [observed(), *layers]) == [observed(), *layers]
    assert set(at_most_known([observed(), *layers])) == {
        "recovery/none/probability",
        "recovery/none/probability/layers.0",
        "recovery/none/probability/layers.1",
    }


def test_nothing_of_single_examples_is_kept_of_earlier_checks() -> None:
    (thin,) = without_old_scores([observed(examples=[3, 4, 5])], step=1)
    assert (thin.scores, thin.entities, thin.examples, thin.texts, thin.value) == ([], [], [], [], 0.5)


def test_of_earlier_looks_at_the_forget_set_one_mean_for_each_entity_is_kept() -> None:
    def look(**about: Any) -> Observation:
        return Observation("p", about.pop("split", "forget"), 0.5, scores=[0.25, 0.75, 0.123456], **about)

    names = {"entities": ["Ada", "Ada", "Bo"]}
    kept = without_old_scores([look(**names)], step=1)
    assert [o.by_entity for o in kept] == [{"Ada": 0.5, "Bo": 0.1235}]
    assert without_old_scores(kept, step=2) == kept  # another check later
    assert [o.by_entity for o in without_old_scores([look()], step=1)] == [{"0": 0.25, "1": 0.75, "2": 0.1235}]
    others = [look(split="retain", **names), look(attack="int4", **names), look(layer="h.0", **names)]
    assert [o.by_entity for o in without_old_scores(others, step=1)] == [{}] * 3
    last = look(**names)
    assert without_old_scores([last], step=0) == [last]


def test_what_earlier_looks_keep_does_not_grow_with_the_data() -> None:
    many = Observation("p", "forget", 0.5, scores=[0.5] * 9999)
    (thin,) = without_old_scores([many], step=1)
    assert list(thin.by_entity) == list(map(str, range(MOST_ENTITIES)))
