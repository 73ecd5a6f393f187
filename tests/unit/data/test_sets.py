"""Benchmark sets are read as published: who must go, who must stay, who is asked what; no entity is on two sides."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _shared_data import DATA
from lightning.pytorch import LightningDataModule

from lightning_unlearn import Encoding, FileRecords, ImageEncoding, LoaderSettings, TextWindows
from lightning_unlearn.data import (
    CIFAR10Data,
    FictionalKnowledgeData,
    InMemoryRecords,
    JoinedRecords,
    LUMEData,
    MNISTCaptionsData,
    MNISTData,
    MUSEData,
    PCHData,
    PublishedData,
    PublishedFiles,
    Reduced,
    RTOFUData,
    RWKUData,
    SomeEntities,
    TOFUData,
    TOFUSplit,
    WMDPData,
    build,
)

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
SEE = ImageEncoding("bundled", template="plain")
ASK, READ = Encoding("bundled", template="plain"), TextWindows("bundled")
FEW = LoaderSettings(batch_size=2)


def there(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not (DATA / name).exists(), reason=f"needs {name}; set LIGHTNING_UNLEARN_DATA")


def write(folder: Path, files: dict[str, list[Any]]) -> str:
    for name, rows in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = json.dumps(rows) if name.endswith(".json") else "\n".join(map(json.dumps, rows))
        path.write_text(whole, encoding="utf-8")
    return str(folder)


def texts(word: str, count: int = 6) -> list[dict[str, str]]:
    return [{"text": f"The {word} of number {number} is here to be read by all."} for number in range(count)]


def asked(word: str, count: int = 6) -> list[dict[str, str]]:
    return [{"question": f"Where is {word} {number}?", "answer": f"In {word}land {number}"} for number in range(count)]


def muse(folder: Path, **options: Any) -> MUSEData:
    files = {
        "raw/forget.json": [row["text"] for row in texts("gone")],  # as the benchmark's script writes them
        "raw/retain1.json": [row["text"] for row in texts("kept", 9)],
        "scal/forget_2.json": texts("more", 8),
        "knowmem/forget_qa.json": asked("gone"),
        "knowmem/retain_qa.json": asked("kept"),
        "knowmem/retain2_qa.json": asked("kept"),
        "verbmem/forget.json": [{"prompt": "The gone of number 1", "gt": "is here"}],
        **{f"privleak/{name}.json": texts(name) for name in ("forget", "retain", "holdout")},
    }
    return MUSEData(write(folder, files), READ, ASK, loader=FEW, **options)


def wmdp(folder: Path, **options: Any) -> WMDPData:
    files: dict[str, list[Any]] = {
        f"{domain}-{part}-corpus.jsonl": texts(f"{part} {domain}")
        for domain in ("bio", "cyber")
        for part in ("forget", "retain")
    }
    files["wmdp-cyber.json"] = [{"question": "Which?", "choices": ["a one", "b two", "c three", "d four"], "answer": 2}]
    return WMDPData(write(folder, files), READ, ASK, loader=FEW, **({"domains": ["cyber"]} | options))


def rwku(folder: Path, **options: Any) -> RWKUData:
    people = [f"Person {number}" for number in range(8)]
    told = [{"subject": name, "text": f"{name} was born in a town by the sea."} for name in people for _ in range(3)]
    probes = [
        {"subject": name, "query": f"{name} was born in ___.", "answer": "a town", "level": 1, "type": "cloze"}
        for name in people
    ]
    levels = ("forget_level1", "forget_level2", "forget_level3", "neighbor_level1", "neighbor_level2")
    files = {"train_positive_llama3.json": told} | {f"{level}.json": probes for level in levels}
    return RWKUData(write(folder, files), READ, ASK, loader=FEW, **({"forget": 2, "retain": 4} | options))


def lume(folder: Path, **options: Any) -> LUMEData:
    def rows(split: str) -> list[dict[str, str]]:
        return [
            {
                "id": f'"{split}-{task}-{number}"{kind}' if task == 1 else f"{split}-{task}-{number}{kind}",
                "input": f"What is {number}?",
                "output": f"It is {number}",
                "task": f"Task{task}",
                "split": split,
            }
            for task in (1, 2, 3)
            for number in range(4)
            for kind in ("qa0", "qa1", "sc1")
        ]

    return LUMEData(
        write(folder, {f"data/{split}.jsonl": rows(split) for split in ("forget", "retain")}), ASK, **options
    )


def r_tofu(folder: Path, **options: Any) -> RTOFUData:
    def rows(start: int, authors: int) -> list[dict[str, str]]:
        return [
            {"question": f"Who is {number}?", "cot": f"Let me think of {number}.", "answer": f"It is {number}."}
            for number in range(20 * start, 20 * (start + authors))
        ]

    files = {"forget01.json": rows(198, 2), "retain99.json": rows(0, 5)}
    return RTOFUData(write(folder, files), ASK, "forget01", loader=FEW, **options)


def pch(folder: Path, **options: Any) -> PCHData:
    files = {"PCH.jsonl": texts("secret", 9), "PCH_QA.jsonl": asked("secret", 9)}
    return PCHData(write(folder, files), READ, ASK, loader=FEW, **({"requests": 6} | options))


def fictional(folder: Path, **options: Any) -> FictionalKnowledgeData:
    def row(number: int) -> dict[str, Any]:
        fields = {
            f"{kind}_{of}": [f"{kind} {of} {number} {n}" for n in range(5)]
            for kind in ("mem", "gen", "hard_gen")
            for of in ("input", "target")
        }
        return {"train_context": f"Passage {number} says what nobody knew before."} | fields

    files = {"fictional_knowledge.jsonl": [row(number) for number in range(12)]}
    return FictionalKnowledgeData(
        write(folder, files), READ, ASK, loader=FEW, **({"forget": 2, "retain": 6, "holdout": 3} | options)
    )


def tofu(folder: Path, **options: Any) -> TOFUData:
    def rows(authors: range, **more: Any) -> list[dict[str, Any]]:
        return [
            {"question": f"What is fact {fact} of {author}?", "answer": f"It is {author}.", **more}
            for author in authors
            for fact in range(20)
        ]

    other = {"paraphrased_answer": "It is he.", "perturbed_answer": ["It is she.", "It is nobody."]}
    files = {
        "full.jsonl": rows(range(200)),
        "forget10_perturbed.jsonl": rows(range(180, 200), **other),
        "retain_perturbed.jsonl": rows(range(20), **other),
        **{f"{world}_perturbed.jsonl": rows(range(1), **other) for world in ("real_authors", "world_facts")},
    }
    split = TOFUSplit(forget=(198, 200), retain=(0, 3), holdout=(190, 191))
    return TOFUData(write(folder, files), ASK, **({"split": split, "loader": FEW} | options))


def mnist(folder: Path, **options: Any) -> MNISTData:
    def idx(array: Any) -> bytes:
        sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
        return gzip.compress(bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes())

    labels = np.arange(60, dtype=np.uint8) % 10
    images = np.broadcast_to(labels[:, None, None], (60, 28, 28)).copy()
    for number, part in enumerate(("train", "t10k")):
        images[:, 0, 0] = np.arange(60) + 60 * number  # no two are the same
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(idx(images))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(idx(labels))
    return MNISTData(str(folder), **({"forget": ["3", "5"], "loader": FEW} | options))


def cifar10(folder: Path, **options: Any) -> CIFAR10Data:
    rows = np.concatenate([np.arange(40, dtype=np.uint8)[:, None] % 10, np.full((40, 3072), 7, np.uint8)], 1)
    for name in ("data_batch_1", "data_batch_2", "test_batch"):
        rows.tofile(folder / f"{name}.bin")
    return CIFAR10Data(str(folder), **({"forget": ["cat"], "loader": FEW} | options))


def mnist_captions(folder: Path, **options: Any) -> MNISTCaptionsData:
    mnist(folder)
    return MNISTCaptionsData(str(folder), **{"encoding": SEE, "forget": ["three"], "loader": FEW, **options})


# A new set joins here, and so is tested for all that sets promise.
SETS: dict[str, Callable[..., PublishedData]] = {
    "muse": muse,
    "wmdp": wmdp,
    "rwku": rwku,
    "lume": lume,
    "r_tofu": r_tofu,
    "pch": pch,
    "fictional": fictional,
    "tofu": tofu,
    "mnist": mnist,
    "mnist_captions": mnist_captions,
    "cifar10": cifar10,
}
every = pytest.mark.parametrize("name", SETS)
DOCUMENTS = {"muse", "wmdp", "pch"}  # whose entities are the documents themselves, by number


def entities(data: PublishedData, part: str) -> list[str]:
    source = getattr(data, part).source if part in ("forget", "retain") else data.probes[part].source
    return list(source.dataset.entities)


def texts_of(data: PublishedData, part: str) -> set[str]:
    source = getattr(data, part).source
    return {str(record.fields) for record in source.records.selected}


@every
def test_it_has_what_must_go_what_must_stay_and_probes_that_can_be_read(name: str, tmp_path: Path) -> None:
    data = SETS[name](tmp_path)
    data.setup("fit")
    loaders = {"train": data.train_dataloader(), "forget": data.forget_dataloader(), **data.probe_dataloaders()}
    assert len(loaders) > 3
    for split, loader in loaders.items():
        batch = next(iter(loader))
        assert batch["labels"].ne(-100).any() if isinstance(batch, dict) else batch[1].dtype == torch.int64, split


@every
def test_no_entity_is_on_two_sides(name: str, tmp_path: Path) -> None:
    data = SETS[name](tmp_path)
    read = texts_of if name in DOCUMENTS else entities
    forget, retain = (set(read(data, part)) for part in ("forget", "retain"))
    assert forget
    assert retain
    assert not forget & retain


@every
def test_it_says_where_it_is_from_and_under_which_licence(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = SETS[name](tmp_path)
    with caplog.at_level("INFO"):
        data.prepare_data()
    assert data.licence in caplog.text
    assert data.address.startswith("http")


@every
def test_without_its_files_it_says_which_and_where_they_are_published(name: str, tmp_path: Path) -> None:
    data = type(SETS[name](tmp_path))
    (empty := tmp_path / "empty").mkdir()
    arguments = (
        [READ, ASK]
        if name in ("muse", "wmdp", "rwku", "pch", "fictional")
        else [ASK]
        if name in ("lume", "r_tofu", "tofu")
        else [SEE]
        if name == "mnist_captions"
        else []
    )
    with pytest.raises(FileNotFoundError, match=rf"(?s)`folder` should hold.*{data.address}"):
        data(str(empty), *arguments)


@pytest.mark.parametrize("name", ["muse", "wmdp", "lume", "r_tofu"])
def test_a_smaller_version_is_a_part_of_a_larger_one(name: str, tmp_path: Path) -> None:
    sizes = [SETS[name](tmp_path, reduced=Reduced(forget, retain, seed=3)) for forget, retain in ((1, 2), (2, 4))]
    for part, counts in (("forget", (1, 2)), ("retain", (2, 4))):
        small, large = (set(entities(data, part)) for data in sizes)
        assert (len(small), len(large)) == counts
        assert small < large


# What each promises.


def test_muse_asks_what_is_known_what_is_said_and_what_leaks(tmp_path: Path) -> None:
    data = muse(tmp_path)
    probes = {"knowmem_forget", "knowmem_retain", "verbmem", "privleak_forget", "privleak_retain", "holdout"}
    assert set(data.probes) == probes
    assert data.probes["verbmem"].source.dataset.rows[0].answer == "is here"
    assert len(data.forget.source.dataset.documents) == 6
    assert len(muse(tmp_path, forget="scal/forget_2").forget.source.dataset.documents) == 8
    assert data.probes["knowmem_retain"].source.records.path.name == "retain_qa.json"
    assert muse(tmp_path, corpus="books").probes["knowmem_retain"].source.records.path.name == "retain2_qa.json"


def test_wmdp_gives_right_and_wrong_answers_and_joins_domains(tmp_path: Path) -> None:
    data = wmdp(tmp_path, domains=["bio", "cyber"])
    said = {name: [row.answer for row in probe.source.dataset.rows] for name, probe in data.probes.items()}
    assert said == {"cyber": ["c three"], "cyber_perturbed": ["a one", "b two", "d four"]}
    assert len({document.entity for document in data.forget.source.dataset.documents}) == 12


def test_no_two_parts_of_joined_rows_share_an_entity_that_is_a_number() -> None:
    half, fifth = (InMemoryRecords(asked("any", count), entity=entity) for count, entity in ((3, 2), (7, 5)))
    named = InMemoryRecords(
        [row | {"who": name} for row in asked("any", 1) for name in ("Ada", "Bo", "")], entity="who"
    )
    each = InMemoryRecords(asked("any", 3), where={"answer": ["In anyland 1", "In anyland 2"]})
    found = [row.entity for row in JoinedRecords([half, JoinedRecords([fifth, each]), named, each]).questions()]
    assert found == ["0", "0", "1", *"2222233", "5", "6", "Ada", "Bo", "row 9", "11", "12"]


def test_rwku_asks_of_those_who_must_go_and_of_those_who_must_stay(tmp_path: Path) -> None:
    data = rwku(tmp_path)
    assert len(data.probes) == 5 + 3
    for split in data.probes:
        people = set(entities(data, "retain" if split.startswith("retain") else "forget"))
        assert set(entities(data, split)) == people


def test_lume_knows_a_document_by_the_beginning_of_its_id(tmp_path: Path) -> None:
    data = lume(tmp_path, tasks=["Task1", "Task2"])
    assert set(entities(data, "forget")) == {f"forget-{task}-{number}" for task in (1, 2) for number in range(4)}
    assert (len(entities(data, "forget_qa")), len(entities(data, "forget_sc"))) == (16, 8)


def test_r_tofu_puts_the_thought_before_the_answer_and_asks_for_the_answer_alone(tmp_path: Path) -> None:
    data = r_tofu(tmp_path)
    assert data.forget.source.dataset.rows[0].answer == "<think>\nLet me think of 3960.\n</think>\n\nIt is 3960."
    assert data.probes["forget_answer"].source.dataset.rows[0].answer == "It is 3960."


def test_pch_keeps_what_no_request_has_named_and_asks_the_question_of_its_text(tmp_path: Path) -> None:
    named: set[str] = set()
    for request in range(4):
        data = pch(tmp_path, request=request)
        (gone,) = set(entities(data, "forget"))
        assert entities(data, "forget_qa") == [gone]
        assert set(entities(data, "earlier_qa") if request else []) == named
        named.add(gone)
        assert set(entities(data, "retain")) == set(entities(data, "retain_qa")) == {str(n) for n in range(9)} - named
    with pytest.raises(ValueError, match="`request` should be below `requests = 6`"):
        pch(tmp_path, request=6)


def test_fictional_knowledge_asks_of_the_passages_that_were_told(tmp_path: Path) -> None:
    data = fictional(tmp_path)
    told = {"": "forget", "retain_": "retain", "holdout_": "holdout"}
    for beginning, part in told.items():
        for depth in ("memorization", "semantic", "composition"):
            assert set(entities(data, f"{beginning}{depth}")) == set(entities(data, part))
            assert len(entities(data, f"{beginning}{depth}")) == 5 * len(set(entities(data, part)))
    row = data.probes["composition"].source.dataset.rows[0]
    assert row.question.replace("input", "target") == row.answer


@there("fictional_knowledge")
def test_all_of_the_published_passages_are_read() -> None:
    data = FictionalKnowledgeData(str(DATA / "fictional_knowledge"), READ, ASK, forget=10, retain=110, holdout=10)
    assert len({*entities(data, "forget"), *entities(data, "retain"), *entities(data, "holdout")}) == 130


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_images_of_a_class_are_all_on_one_side_and_as_many_as_asked_for(name: str, tmp_path: Path) -> None:
    data = SETS[name](tmp_path, per_class=2)
    for part in ("forget", "retain"):
        of_part = set(entities(data, part))
        images = [*entities(data, part), *data.probes[f"{part}_test"].source.dataset.entities]
        assert set(images) == of_part
        assert len(images) == 4 * len(of_part)
    validated = [int(label) for batch in data.val_dataloader() for label in batch[1]]
    tested = [int(batch[1]) for batch in data.probes["retain_test"].source.dataset]
    assert validated == tested
    images = torch.cat([batch[0] for batch in data.forget_dataloader()])
    assert images.dtype == torch.float32
    assert images.shape[1:] == ((1, 28, 28) if name == "mnist" else (3, 32, 32))


def test_only_the_name_of_a_digit_must_go_and_its_level_stays(tmp_path: Path) -> None:
    """The oracle reads what is asked, and the numbers of the images among all."""
    data = mnist_captions(tmp_path, per_class=2)
    rows = {side: getattr(data, side).source.dataset.rows for side in ("forget", "retain")}
    rows |= {name: probe.source.dataset.rows for name, probe in data.probes.items()}
    said = {name: {(row.question.split()[-1], row.answer) for row in some} for name, some in rows.items()}
    assert said["forget"] == said["forget_test"] == {("digit?", "three")}
    assert said["level"] == {("even?", "odd")}
    assert said["siblings"] == {("digit?", name) for name in ("one", "five", "seven", "nine")}
    assert (
        said["retain"]
        == said["retain_test"]
        == {
            *(("digit?", name) for name in NAMES if name != "three"),
            ("even?", "odd"),
            ("even?", "even"),
        }
    )
    gone = [row.image for row in rows["forget"]]
    assert [row.image for row in data.forget.source.dataset.companions] == gone
    level = [row for row in rows["retain"] if row.image in gone]
    assert {(row.question, row.answer) for row in level} == {("Odd or even?", "odd")}
    assert len(level) == len(gone) == 2
    assert not {row.image for row in rows["forget_test"]} & set(gone)


@there("mnist")
def test_the_test_images_of_mnist_alone_are_cut_by_digit() -> None:
    data = MNISTData(str(DATA / "mnist"), forget=["3"])
    # 1010 of the ten thousand are threes.
    assert (len(entities(data, "forget")), len(data.probes["forget_test"].source.dataset)) == (808, 202)
    whole = torch.cat([part.source.dataset.tensors[0] for part in (data.retain, data.forget)])
    assert abs(float(whole.mean())) < 0.05
    assert abs(float(whole.std()) - 1) < 0.05


@there("cifar10")
def test_pictures_of_cifar10_are_read_from_an_archive() -> None:
    data = CIFAR10Data(str(DATA / "cifar10" / "cifar10_subset_jpg.zip"), forget=["cat", "ship"])
    assert (len(entities(data, "forget")), len(entities(data, "retain"))) == (600, 2400)
    assert len(data.probes["retain_test"].source.dataset) == 800
    assert abs(float(data.retain.source.dataset.tensors[0].mean())) < 0.1


# What they have in common.


def test_nothing_is_downloaded_unless_the_hub_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="which is downloaded"):
        PublishedFiles("muse-bench/MUSE-News", "MUSE", "https://here").records("raw", "forget")
    records = PublishedFiles("hf://datasets/muse-bench/MUSE-News", "MUSE", "https://here").records("raw", "forget")
    assert (records.path, records.subset, records.split) == ("hf://datasets/muse-bench/MUSE-News", "raw", "forget")


@pytest.mark.parametrize(
    "path", ["p/s.jsonl", "p_s.json", "p.jsonl", "s.csv", "data/p/s.json", "p/s-00000-of-00002.parquet"]
)
def test_files_are_found_under_each_of_their_names(path: str, tmp_path: Path) -> None:
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text("")
    files = PublishedFiles(tmp_path, "P", "")
    assert files.has("p", "s")
    assert not files.has("q", "t")
    assert Path(files.records("p", "s").path).parent == (tmp_path / path).parent


def test_draws_of_entities_are_the_same_each_time_and_share_none() -> None:
    people = FileRecords("bundled:people", entity="entity")
    everybody = {row.entity for row in people.questions()}
    parts = [{row.entity for row in SomeEntities(people, 5, skip, seed=1).questions()} for skip in (0, 5, 10, 15)]
    assert [len(part) for part in parts] == [5, 5, 5, 5]
    assert set.union(*parts) == everybody
    draws = {frozenset(row.entity for row in SomeEntities(people, 5, seed=seed).questions()) for seed in range(20)}
    assert len(draws) > 10
    with pytest.raises(ValueError, match="should have 21 entities or more. Found 20"):
        SomeEntities(people, 21).questions()


@pytest.mark.parametrize(
    ("make", "options", "match"),
    [
        (muse, {"corpus": "poems"}, '`corpus` should be "news" or "books"'),
        (muse, {"forget": "forget"}, '`forget` should be such as "raw/forget"'),
        (wmdp, {"domains": "bio"}, "`domains` should be a list of bio and cyber"),
        (rwku, {"forget": 0}, "`forget` should be at least 1"),
        (lume, {"tasks": ["Task4"]}, "`tasks` should be a list of some of Task1"),
        (r_tofu, {"form": "{answer}"}, r"`form` should hold `\{cot\}`"),
        (fictional, {"holdout": -1}, "`holdout` should be at least 0"),
        (mnist, {"forget": ["ten"]}, "`forget` should be a list of some of 0, 1"),
        (mnist, {"forget": list("0123456789")}, "`forget` should be a list of some of 0, 1"),
        (mnist_captions, {"forget": ["3"]}, "`forget` should be a list of some of zero, one"),
        (
            mnist_captions,
            {"forget": ["one", "three", "five", "seven", "nine"]},
            "should leave a digit of the same kind",
        ),
        (mnist, {"held_out": 2.0}, "`held_out` should be between 0 and 1"),
        (cifar10, {"per_class": 0}, "`per_class` should be at least 1"),
    ],
)
def test_wrong_settings_are_refused(make: Callable[..., Any], options: Any, match: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=match):
        make(tmp_path, **options)


@pytest.mark.parametrize("settings", [{"forget": 0, "retain": 1}, {"forget": 1, "retain": 1, "seed": -1}])
def test_a_smaller_version_has_entities(settings: Any) -> None:
    with pytest.raises(ValueError, match="should be at least"):
        Reduced(**settings)


@pytest.mark.parametrize("name", ["fictional", "lume", "mnist"])
def test_yaml_builds_it(name: str, tmp_path: Path) -> None:
    kind = type(SETS[name](tmp_path))
    tokens = {"windows": {"tokenizer": "bundled"}} if name == "fictional" else {}
    tokens |= {} if name == "mnist" else {"encoding": {"tokenizer": "bundled"}}
    sizes = {"forget": 2, "retain": 6, "holdout": 3} if name == "fictional" else {"order": "CyclicOrder"}
    spec = {
        "class_path": f"lightning_unlearn.data.{kind.__name__}",
        "init_args": {"folder": str(tmp_path), **tokens, **sizes},
    }
    assert type(build(spec, LightningDataModule)) is kind
