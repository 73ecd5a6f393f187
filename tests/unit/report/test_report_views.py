"""What the page shows beside its tables: layers, single examples, bits, effort; and the section for a model's page."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from _studies import WHO, attacked, control, observed, report_of, study

from lightning_unlearn.observation import Change, Cost, Observation
from lightning_unlearn.report import RobustnessReport, recorded, to_model_card, to_page
from lightning_unlearn.report.render._effort import efforts
from lightning_unlearn.report.render._examples import LONGEST, SHOWN, worst_examples
from lightning_unlearn.report.render._further import further_facts, further_tables
from lightning_unlearn.report.render._heat import DARKEST, change_map, heat_maps
from lightning_unlearn.report.render._ladder import ladder
from lightning_unlearn.report.render._palette import DARK, LIGHT

HOSTILE = "<img src=x onerror=alert(1)> | `x` *bold* [link](http://example.com) \u202e"
STEP = {"attack": "relearn", "family": "relearn", "point": 1, "unit": "step"}


def inside(layer: str, level: float, **other: Any) -> Observation:
    return observed(level, 9, metric="probe", layer=layer, **other)


LAYERS = [inside("blocks.0", 0.0), inside("blocks.1", 0.5), inside("blocks.1", 1.0, subject="original")]


def test_a_map_has_a_row_for_each_layer_and_a_column_for_each_model() -> None:
    (found,) = heat_maps(report_of([*study(), *LAYERS]))
    assert list(found.rows) == ["blocks.0", "blocks.1"]
    assert found.columns == ["unlearned", "original"]
    assert [cell.words for cell in found.rows["blocks.1"]] == ["0.500", "1.000"]
    assert found.rows["blocks.0"][1].words == "-"  # the original's first layer was not looked into
    assert found.rows["blocks.0"][0].heat <= 1 < found.rows["blocks.1"][0].heat < found.rows["blocks.1"][1].heat


def test_each_metric_and_each_split_has_its_own_map() -> None:
    other = [inside("blocks.0", 0.5, split="retain"), observed(0.5, 9, metric="lens", layer="blocks.0")]
    titles = [found.title for found in heat_maps(report_of([*study(), *LAYERS, *other]))]
    assert titles == [
        "probe of the forget set, by layer",
        "probe of the retain set, by layer",
        "lens of the forget set, by layer",
    ]


def test_an_attack_on_a_layer_has_its_own_column() -> None:
    (found,) = heat_maps(report_of([*study(), *LAYERS, inside("blocks.0", 0.9, **STEP)]))
    assert found.columns[-1] == "unlearned, relearn at step 1"


def test_a_wide_map_is_shown_in_parts_that_fit_on_paper_and_hold_every_cell_once() -> None:
    points = [inside("blocks.0", number / 20, **{**STEP, "point": number}) for number in range(1, 15)]
    (found,) = heat_maps(report_of([*study(), *LAYERS, *points]))
    parts = found.parts()
    assert [len(part.columns) for part in parts] == [6, 6, 4]
    assert [column for part in parts for column in part.columns] == found.columns
    assert [cell for part in parts for cell in part.rows["blocks.0"]] == found.rows["blocks.0"]
    assert all(list(part.rows) == list(found.rows) for part in parts)
    assert parts[-1].title == "probe of the forget set, by layer, columns 13 to 16 of 16"
    page = to_page(report_of([*study(), *LAYERS, *points]))
    assert all(part.title in page for part in parts)


def test_a_map_that_fits_is_one_table() -> None:
    (found,) = heat_maps(report_of([*study(), *LAYERS]))
    assert found.parts() == [found]


def test_of_too_many_layers_to_read_those_with_the_most_colour_are_shown_and_all_on_demand() -> None:
    many = [inside(f"blocks.{number}", number / 100) for number in range(60)]
    (found,) = heat_maps(report_of([*study(), *many]))
    leading = found.leading()
    assert leading is not None
    assert list(leading.rows) == [f"blocks.{number}" for number in range(48, 60)]
    assert all(leading.rows[layer] == found.rows[layer] for layer in leading.rows)
    page = to_page(report_of([*study(), *many]))
    assert "the 12 of 60 with the largest values" in page
    assert page.index('<details class="screen"><summary>All 60 layers') < page.index(">blocks.<wbr>0<")
    few = heat_maps(report_of([*study(), *LAYERS]))[0]
    assert few.leading() is None
    assert not few.is_long


def test_a_map_of_many_pages_is_left_out_of_print() -> None:
    points = [inside(f"blocks.{layer}", 0.5, **{**STEP, "point": step}) for layer in range(20) for step in range(1, 9)]
    page = to_page(report_of([*study(), *LAYERS, *points, *(replace(o, metric="lens") for o in points)]))
    assert '<details class="screen"><summary>lens of the forget set, by layer' in page


def test_without_layers_there_is_no_map() -> None:
    made = report_of(study())
    assert heat_maps(made) == []
    assert "Inside the network" not in to_page(made)
    assert "Inside the network" in to_page(report_of([*study(), *LAYERS]))


def luminance(colour: tuple[float, ...]) -> float:
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_the_number_in_the_fullest_cell_can_be_read(palette: dict[str, str]) -> None:
    def rgb(role: str) -> list[float]:
        return [int(palette[role][at : at + 2], 16) / 255 for at in (1, 3, 5)]

    share = DARKEST / 100
    mixed = tuple(share * one + (1 - share) * other for one, other in zip(rgb("attack-0"), rgb("paper"), strict=True))
    dark, light = sorted((luminance(mixed), luminance(tuple(rgb("ink")))))
    assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_changes_are_shown_by_layer_weighted_by_their_size() -> None:
    changes = [
        Change("blocks.0.w", 90, True, True, 1.0, 0.2),
        Change("blocks.0.b", 10, False, False, 0.0),
        Change("blocks.1.w", 5, True, True, 0.0),  # its hash differs, the sample does not
    ]
    found = change_map(changes)
    assert found is not None
    assert [cell.words for cell in found.rows["blocks.0"]] == ["100", "90 %", "90.0 %", "up to 0.2 of its length"]
    assert found.rows["blocks.1"][2].words == "some, under 0.1 %"
    assert change_map([]) is None


def saying(level: float, step: int, words: str, **other: Any) -> Observation:
    return observed(level, step, metric="rouge", texts=[f"{words} {number}" for number in range(len(WHO))], **other)


def with_texts(words: str = "under attack") -> RobustnessReport:
    said = [saying(0.9, 0, "before", subject="original"), saying(0.1, 9, "after"), saying(0.7, 9, words, **STEP)]
    return report_of([*study(), *said])


def test_each_model_stands_beside_the_others_the_worst_example_first() -> None:
    found = worst_examples(with_texts())
    assert found is not None
    assert found.metric == "rouge"  # of which the words were kept
    assert found.models == ["original", "unlearned", "under attack"]
    assert len(found.examples) == SHOWN
    first = found.examples[0]
    assert first.title == "Example 2: author 1"  # the first with the highest score
    assert [said.text for said in first.said] == ["before 2", "after 2", "under attack 2"]
    assert [said.score for said in first.said] == ["0.910", "0.110", "0.710"]


def test_an_example_that_only_one_model_was_asked_has_no_number_of_the_others() -> None:
    half = saying(0.7, 9, "late", **STEP).at(range(12, 24))
    said = [saying(0.9, 0, "before", subject="original").at(range(12)), saying(0.1, 9, "after"), half]
    found = worst_examples(report_of([*study(), *said]))
    assert found is not None
    assert found.examples[0].title.startswith("Example 14")
    assert [each.score for each in found.examples[0].said] == ["-", "0.110", "0.710"]


def test_without_words_the_scores_alone_are_shown() -> None:
    found = worst_examples(report_of(study()))
    assert found is not None
    assert not found.has_words
    assert worst_examples(report_of([Observation("p", "forget", 0.5)])) is None


def test_of_a_loss_the_worst_examples_are_those_with_the_least() -> None:
    seen = Observation("loss", "forget", 2.0, 9, scores=[3.0, 1.0, 2.0], higher_means_known=False)
    report = report_of([seen])
    found = worst_examples(report)
    assert found is not None
    assert [example.title for example in found.examples] == ["Example 1", "Example 2", "Example 0"]
    assert "Those of the forget set with the least loss." in to_page(report)


def test_what_a_model_said_is_escaped_and_cut() -> None:
    long = HOSTILE + "x" * (2 * LONGEST)
    html = to_page(with_texts(long))
    assert "<img" not in html
    assert "&lt;img" in html
    assert "\u202e" not in html
    assert "x" * (LONGEST + 1) not in html
    assert "take this part out" in html


def rounded(bits: int, back: float, name: str) -> list[Observation]:
    how = {"attack": name, "family": "quant", "point": bits, "unit": "bits"}
    return [observed(back, 9, **how), observed(0.8, 9, "retain", **how)]


def test_the_ladder_goes_from_many_bits_to_few_over_all_attacks_that_round() -> None:
    steps = [*rounded(4, 0.3, "int4"), *rounded(8, 0.1, "int8"), *rounded(2, 0.5, "nf"), *rounded(4, 0.2, "nf")]
    found = ladder(report_of([*study(), *steps]))
    assert {attack: [r.point for r in recoveries] for attack, recoveries in found.items()} == {
        "int4": [4],
        "int8": [8],
        "nf": [4, 2],
    }
    assert ladder(report_of([*study(), *rounded(4, 0.3, "int4")])) == {}


def test_effort_starts_at_the_model_that_was_not_attacked_and_has_the_control_beside_it() -> None:
    how = {"attack": "relearn", "family": "relearn", "unit": "step"}
    taught = [observed(0.1 + 0.1 * p, 0, subject="control", point=p, **how) for p in (1, 2)]
    found = efforts(report_of([*study(back=(0.4, 0.6)), *control(0.2)[:1], *taught]))["relearn"]
    assert [point for point, _ in found.unlearned] == [point for point, _ in found.control] == [0, 1, 2]
    assert [level.value for _, level in found.unlearned] == pytest.approx([0.1, 0.4, 0.6])
    assert [level.value for _, level in found.control] == pytest.approx([0.1, 0.2, 0.3])
    assert all(level.low < level.value < level.high for _, level in found.unlearned)
    assert found.original == pytest.approx(0.8)


def test_an_attack_with_one_point_has_no_curve() -> None:
    assert efforts(report_of(study())) == {}


def test_the_effort_of_the_worst_attack_is_told_in_seconds_of_one_run() -> None:
    made = recorded(
        report_of(study(back=(0.6,))), costs=[Cost("relearn", "unlearned", looks=2, seconds=25.0, losses=4)]
    )
    html = to_page(made)
    assert "effort: 1 step of relearning (the whole attack: 12 s)" in html
    assert "What each attack cost" in html


def test_the_effort_is_told_in_tokens_too_where_examples_are_text() -> None:
    spent = Cost("relearn", "unlearned", looks=2, seconds=25.0, losses=4, rows=16, tokens=24000)
    html = to_page(recorded(report_of(study(back=(0.6,))), costs=[spent]))
    assert "effort: 1 step of relearning (the whole attack: 12 s, 12 000 tokens)" in html
    cells = dict(re.findall(r'<td data-label="(batches|examples|tokens)">([^<]*)<', html))
    assert cells == {"batches": "2", "examples": "8", "tokens": "12 000"}


def test_whatever_the_statistics_add_to_the_summary_is_shown() -> None:
    made = report_of(study())
    place = {"attack": "relearn", "point": 5, "unit": "step"}
    made.summary.update(
        {
            "held_out": {"value": 0.25, "low": 0.125, "high": None, "choices": [{**place, "point": 1}] * 2},
            "least_effort": {"attack": "relearn", "steps": 100.0, "reached": False, "words": "> 100"},
            "front": {"utility": 0.5, "robustness": 0.0},
            "nothing": None,
            "effort": [
                {"attack": "relearn", "budget": 100, "to_half": {"words": "> 100"}, "never": None},
                {"attack": "adapter", "budget": 10, "to_half": {"words": "7"}, "worst": place},
            ],
        }
    )
    facts = further_facts(made)
    assert "nothing" not in facts
    assert facts["worst case, by entities that did not choose it"] == "0.250 [0.125, -]"
    assert facts["least effort for half of it"] == "relearn: > 100"
    assert facts["usefulness and robustness"] == "utility: 0.500; robustness: 0"
    (table,) = [found for found in further_tables(made) if found.title == "How many steps an attack needs"]
    assert table.columns == ["attack", "budget", "steps to half", "worst"]
    assert table.rows == [["relearn", "100", "> 100", "-"], ["adapter", "10", "7", "relearn at step 5"]]
    html = to_page(made)
    assert "How many steps an attack needs" in html
    assert "relearn: &gt; 100" in html


def test_the_model_card_is_plain_markdown_with_the_numbers_of_the_page() -> None:
    card = to_model_card(report_of([*study(back=(0.437,)), *attacked("int4", (0.2,), family="quant")]))
    assert re.findall(r"^#+ .*", card, re.MULTILINE) == [
        "## What was unlearned, and how well",
        "### What the model knows",
        "### What attacks bring back",
        "### Limits",
        "### Not claimed",
        "### How to make it again",
    ]
    assert not card.startswith("---")  # no metadata: it is pasted into a page that has its own
    assert "| relearn | step 1 | 48.1 % \\[48.1, 48.1\\] | 0.0 % |" in card
    assert "0.800 \\[" in card
    assert all(line.count(" | ") == 3 for line in card.splitlines() if line.startswith("| ") and "---" not in line)


def test_nothing_of_the_user_is_markup_in_the_model_card() -> None:
    named = [o if o.attack == "none" else observed(0.4, 9, o.split, **{**STEP, "attack": HOSTILE}) for o in study()]
    card = to_model_card(report_of(named, run={"notes": [HOSTILE]}, data={"forget": {"name": HOSTILE}}))
    assert not re.findall(r"(?<!\\)[<`\[]", card)
    assert "\u202e" not in card
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 5 for line in card.splitlines() if line.startswith("|"))
