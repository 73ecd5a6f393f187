"""The worst case is judged by entities that did not choose it."""

from dataclasses import replace

import numpy as np
import pytest
from _studies import WHO, attacked, control, observed, report_of, study
from interval_coverage_parts._levels import choosing

from lightning_unlearn.report import held_out_worst
from lightning_unlearn.report.render._tiles import tiles
from lightning_unlearn.report.schema._words import percent


def shares(values):
    return {f"author {number:02}": (float(value), 1.0) for number, value in enumerate(values)}


def test_the_largest_of_equal_attacks_reads_too_high_and_the_one_held_out_does_not():
    found = choosing(8, 20, studies=300, draws=200)
    assert found["largest"]["mean"] > found["truth"] + 0.05
    assert found["held out"]["mean"] == pytest.approx(found["truth"], abs=0.015)


def test_if_both_halves_choose_the_same_the_number_is_that_of_all_entities():
    generator = np.random.default_rng(0)
    weak, strong = generator.normal(0.1, 0.1, 14), generator.normal(0.9, 0.1, 14)
    found = held_out_worst([shares(weak), shares(strong)])
    assert found.choices == (1, 1)
    assert found.totals.over.sum() == pytest.approx(strong.sum())


def test_no_entity_judges_what_it_chose():
    # each of two attacks works on one half alone: whatever a half chooses, the other half does not give it back
    generator = np.random.default_rng(0)
    order = sorted(shares([0] * 12))
    half = {order[place] for place in generator.permutation(12)[:6]}  # as `halves` draws them with seed 0
    one = {name: (float(name in half), 1.0) for name in order}
    other = {name: (float(name not in half), 1.0) for name in order}
    found = held_out_worst([one, other], seed=0)
    assert found.choices == (0, 1)
    assert found.totals.over.sum() == 0


@pytest.mark.parametrize(("entities", "enough"), [(9, False), (10, True)])
def test_fewer_than_ten_entities_cannot_be_halved(entities, enough):
    assert (held_out_worst([shares([0.5] * entities)]) is not None) is enough


def test_an_attack_that_is_judged_by_few_entities_is_never_chosen():
    few = dict(list(shares([0.9] * 12).items())[:3])
    assert held_out_worst([shares([0.1] * 12), few]).choices == (0, 0)


def test_halves_depend_on_names_and_seed_alone():
    generator = np.random.default_rng(0)
    candidates = [shares(generator.normal(size=20)) for _ in range(6)]
    turned = [dict(reversed(candidate.items())) for candidate in candidates]
    choices = [held_out_worst(candidates, seed=seed).choices for seed in range(8)]
    assert choices == [held_out_worst(turned, seed=seed).choices for seed in range(8)]
    assert len(set(choices)) > 1


def test_the_verdict_says_that_the_worst_was_judged_by_others():
    made = report_of(study(back=(0.2, 0.6)))
    held = made.summary["held_out"]
    assert held["value"] == pytest.approx(5 / 7)
    assert held["choices"] == [{"attack": "relearn", "point": 2, "unit": "step"}] * 2
    assert "chosen by one half of the entities and judged by the other" in made.summary["verdict"]


def uneven():
    """Two attacks, each of which brings back every second author."""
    observations = study(back=(0.15,))
    for name, odd in (("even", 0), ("odd", 1)):
        how = {"attack": name, "family": "relearn", "point": 1, "unit": "step"}
        scores = [0.8 if int(entity.split()[1]) % 2 == odd else 0.1 for entity in WHO]
        scores = [score + 0.001 * row for row, score in enumerate(scores)]
        forget = replace(observed(0.1, 9, **how), scores=scores, value=sum(scores) / len(scores))
        observations += [forget, observed(0.8, 9, "retain", **how)]
    return observations


def choices(made):
    return {choice["attack"] for choice in made.summary["held_out"]["choices"]}


def test_where_the_halves_disagree_the_number_is_of_both_and_lower_and_both_are_named():
    made = next(made for seed in range(9) if len(choices(made := report_of(uneven(), seed=seed))) == 2)
    said, held = made.summary["verdict"], made.summary["held_out"]
    largest = max(recovery.rho.value for recovery in made.recoveries)
    assert held["value"] < largest
    assert "One half of the entities chose" in said
    assert "even" in said
    assert "odd" in said
    assert "the largest of several noisy numbers, which errs upwards" in said
    assert made.summary["front"]["robustness"] == pytest.approx(1 - held["value"])
    tile = next(tile for tile in tiles(made) if tile.title == "What an adversary brings back")
    assert tile.value == percent(held["value"])
    assert tile.lines[0] == "chosen by one half of the entities, judged by the other"


def test_with_too_few_entities_it_is_said_that_nothing_was_held_out():
    def crowded(o):
        return replace(o, entities=[f"author {number % 6}" for number in range(24)])

    made = report_of([crowded(o) for o in study(back=(0.2, 0.6))])
    assert made.summary["held_out"] is None
    assert "too few entities for one half to choose" in made.summary["verdict"]
    assert "too few entities" not in report_of([crowded(o) for o in study(back=(0.6,))]).summary["verdict"]


def test_deployments_and_adversaries_are_chosen_apart():
    made = report_of([*study(back=(0.2,)), *attacked("int4", (0.7,), family="quant")])
    assert {choice["attack"] for choice in made.summary["held_out"]["choices"]} == {"relearn"}
    assert {choice["attack"] for choice in made.summary["held_out_deployment"]["choices"]} == {"int4"}


def test_what_is_held_out_is_beyond_the_control():
    made = report_of([*study(back=(0.4,)), *control(0.3)])
    assert made.summary["held_out"]["value"] == pytest.approx(made.recoveries[0].adjusted.value)
    assert made.summary["held_out"]["low"] == pytest.approx(made.recoveries[0].adjusted.low)


def test_families_and_metrics_have_their_own_worst():
    made = report_of([*study(back=(0.2, 0.3)), *attacked("int4", (0.7,), family="quant")])
    rows = {row["family"]: row for row in made.summary["by_family"]}
    assert rows["relearn"]["worst"] == {"attack": "relearn", "point": 2, "unit": "step"}
    assert rows["quant"]["value"] == pytest.approx(6 / 7)
    assert (rows["relearn"]["attacks"], rows["relearn"]["verdicts"]) == (1, 2)
    assert [row["metric"] for row in made.summary["by_metric"]] == ["probability"]
