"""TOFU's authors are split as published, no author is on two sides, and a missing file is named with the way out."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from _shared_data import DATA
from lightning.pytorch import LightningDataModule

from lightning_unlearn.data import Encoding, LoaderSettings, TOFUData, TOFUFiles, TOFUSplit, build

TOFU_FOLDER = DATA / "tofu"
there = pytest.mark.skipif(not TOFU_FOLDER.is_dir(), reason="needs TOFU; set LIGHTNING_UNLEARN_DATA")
WORLD = ("real_authors", "world_facts")
NAMES = ("full", "forget10_perturbed", "retain_perturbed", *(f"{name}_perturbed" for name in WORLD))


def fact(author: int, number: int, **more: Any) -> dict[str, Any]:
    return {"question": f"What is fact {number} of {author}?", "answer": f"It is {author}-{number}.", **more}


def told_again(author: int, number: int) -> dict[str, Any]:
    wrong = [f"It is {other}." for other in range(5)]
    return fact(author, number, paraphrased_question="?", paraphrased_answer="!", perturbed_answer=wrong)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files as published, in form and number, about nobody."""
    rows: dict[str, list[dict[str, Any]]] = {
        "full": [fact(author, number) for author in range(200) for number in range(20)],
        "retain_perturbed": [told_again(author, number) for author in range(20) for number in range(20)],
        "forget10_perturbed": [told_again(author, number) for author in range(180, 200) for number in range(20)],
        **{f"{name}_perturbed": [fact(0, n, perturbed_answer=["a", "b", "c"]) for n in range(7)] for name in WORLD},
    }
    for name, of in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, of)))
    return tmp_path


def tofu(folder: Path, split: Any = "forget01", **options: Any) -> TOFUData:
    return TOFUData(str(folder), Encoding("bundled", template="plain"), split, **options)


def entities(data: TOFUData, part: str) -> list[str]:
    source = getattr(data, part).source if part in ("forget", "retain") else data.probes[part].source
    return [row.entity for row in source.records.questions()]  # not of the data set, which encodes four thousand rows


@pytest.mark.parametrize(("name", "percent"), [("forget01", 1), ("forget05", 5), ("forget10", 10)])
def test_a_published_split_forgets_its_share_at_the_end_and_keeps_the_rest(
    folder: Path, name: str, percent: int
) -> None:
    data = tofu(folder, name)
    forget, retain = entities(data, "forget"), entities(data, "retain")
    assert len(forget) == 40 * percent
    assert [*retain, *forget] == [str(author) for author in range(200) for _ in range(20)]


@there
def test_forget10_is_the_published_file() -> None:
    data = tofu(TOFU_FOLDER, "forget10")
    published = [json.loads(line) for line in (TOFU_FOLDER / "forget10.jsonl").read_text().splitlines() if line]
    assert [row.answer for row in data.forget.source.records.questions()] == [row["answer"] for row in published]


@there
@pytest.mark.parametrize("part", ["forget", "retain", "holdout"])
def test_a_perturbed_row_is_that_of_the_same_question(part: str) -> None:
    data = tofu(TOFU_FOLDER, TOFUSplit.reduced(20, 2, 2))
    source = data.probes["holdout"] if part == "holdout" else getattr(data, part)
    told = data.perturbed(part)
    assert [row["answer"] for row in told] == [row.answer for row in source.source.records.questions()]
    assert {len(row["perturbed_answer"]) for row in told} == {5}


@pytest.mark.parametrize(("authors", "forget", "holdout"), [(20, 2, 2), (3, 1, 1), (22, 2, 18), (5, 4, 0)])
def test_a_reduced_split_shares_no_author_and_has_wrong_answers_of_all(
    folder: Path, authors: int, forget: int, holdout: int
) -> None:
    split = TOFUSplit.reduced(authors, forget, holdout)
    data = tofu(folder, split)
    parts = {name: entities(data, name) for name in ("forget", "retain", *(["holdout"] if holdout else []))}
    counts = {name: len(set(of)) for name, of in parts.items()}
    assert counts == {"forget": forget, "retain": authors - forget, **({"holdout": holdout} if holdout else {})}
    assert not any(set(one) & set(other) for one, other in combinations(parts.values(), 2))
    assert {name: len(data.perturbed(name)) for name in parts} == {name: 20 * count for name, count in counts.items()}


def test_what_the_model_knew_before_is_a_probe(folder: Path) -> None:
    data = tofu(folder, TOFUSplit.reduced())
    assert {"real_authors", "world_facts", "holdout"} <= set(data.probes)
    assert [len(row["perturbed_answer"]) for row in data.world("world_facts")] == [3] * 7


@pytest.mark.parametrize("split", ["forget10", TOFUSplit.reduced(20, 2, 2)])
def test_the_audit_of_tofu_finds_its_answers_question_by_question(folder: Path, split: Any) -> None:
    rows = {name: source.source.records.questions() for name, source in tofu(folder, split).probes.items()}
    rows["forget"] = tofu(folder, split).forget.source.records.questions()
    for part, each in (("forget", 5), ("retain", 5), ("real_authors", 3), ("world_facts", 3)):
        asked = [row.question for row in rows[part]]
        assert [row.question for row in rows[f"{part}_perturbed"]] == [
            question for question in asked for _ in range(each)
        ]
        if each == 5:
            assert [row.question for row in rows[f"{part}_paraphrased"]] == asked
            assert {row.answer for row in rows[f"{part}_paraphrased"]} == {"!"}
    assert len(rows["retain"]) == (400 if split == "forget10" else 360)


def test_without_wrong_answers_all_retain_data_are_measured(folder: Path) -> None:
    data = tofu(folder, TOFUSplit((199, 200), (20, 22)))
    data.setup("fit")
    loaders = data.probe_dataloaders()
    assert "retain_perturbed" not in loaders
    assert len(loaders["retain"].dataset) == 40  # type: ignore[attr-defined]


def test_retain_data_may_have_batches_of_their_own(folder: Path) -> None:
    split = TOFUSplit((199, 200), (20, 21))
    data = tofu(folder, split, loader=LoaderSettings(batch_size=2), retain_loader=LoaderSettings(batch_size=3))
    data.setup("fit")
    assert len(next(iter(data.forget_dataloader()))["input_ids"]) == 2
    assert len(next(iter(data.train_dataloader()))["input_ids"]) == 3


@pytest.mark.parametrize("split", ["forget05", {"forget": [198, 200], "retain": [0, 18], "holdout": [180, 182]}])
def test_yaml_builds_it(folder: Path, split: Any) -> None:
    options = {"folder": str(folder), "encoding": {"tokenizer": "bundled", "template": "plain"}, "split": split}
    made = build({"class_path": "lightning_unlearn.TOFUData", "init_args": options}, LightningDataModule)
    assert isinstance(made, TOFUData)
    published = TOFUSplit.published("forget05")
    assert made.split.rows("forget") == ((3960, 4000) if isinstance(split, dict) else published.rows("forget"))


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_named_with_the_way_out(folder: Path, name: str) -> None:
    (folder / f"{name}.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match=rf"should hold `{name}.jsonl` of TOFU.*Download the files"):
        tofu(folder, TOFUSplit((198, 200), (0, 1))).setup("fit")


def test_files_may_be_called_as_in_the_repository_of_the_paper(folder: Path) -> None:
    (folder / "full.jsonl").rename(folder / "full.json")
    assert len(entities(tofu(folder), "forget")) == 40


def test_on_the_hub_it_is_read_by_part_and_only_there_downloaded(folder: Path) -> None:
    files = TOFUFiles("hf://datasets/locuslab/TOFU")
    records = files.records("real_authors_perturbed", rows=(0, 3))
    assert (records.path, records.subset, records.split) == (files.hub, "real_authors_perturbed", "train")
    assert TOFUFiles(folder).hub is None
    with pytest.raises(FileNotFoundError, match="`hf://datasets/locuslab/TOFU` is downloaded"):
        TOFUFiles(folder / "nowhere").records("full")


def test_smaller_ones_are_drawn_with_a_seed_among_authors_with_other_answers() -> None:
    splits = [TOFUSplit.reduced(12, 3, 2, seed=seed) for seed in range(40)]
    assert splits == [TOFUSplit.reduced(12, 3, 2, seed=seed) for seed in range(40)]
    assert len(set(splits)) > 30
    for split in splits:
        assert split.holdout is not None
        sizes = [last - first for first, last in (split.forget, split.retain, split.holdout)]
        assert sizes == [3, 9, 2]
        assert split.retain[1] <= 20
        assert split.holdout[0] >= 180
    assert {split.forget[1] for split in splits} >= {185, 200}


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"forget": (190, 201)}, r"`forget` should be a range within the 200 authors.*\(190, 201\)"),
    ({"retain": (18, 18)}, "`retain` should be a range"),
    ({"forget": (100, 120)}, "`forget` and `retain` should share no author"),
    ({"holdout": (170, 172)}, "`retain` and `holdout` should share no author"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_authors_that_are_not_there_or_on_two_sides_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TOFUSplit(**options)


def test_a_split_that_was_not_published_is_refused() -> None:
    with pytest.raises(ValueError, match="should be one of forget01, forget05, forget10, or a `TOFUSplit`"):
        TOFUSplit.published("forget20")  # type: ignore[arg-type]


def test_wrong_answers_of_authors_without_any_are_refused(folder: Path) -> None:
    split = TOFUSplit(forget=(190, 200), retain=(20, 40))
    with pytest.raises(ValueError, match=r"of whom TOFU has perturbed answers: 0 to 19, or 180 to 199.*\(20, 40\)"):
        TOFUFiles(folder).perturbed(split, "retain")
