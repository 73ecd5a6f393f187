"""Exactly the answer and its end of turn are supervised, nothing real is masked, and bad files are named."""

import json
import sys
import types

import pytest
import torch
from _shared_data import DATA
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningCLI

from lightning_unlearn.data import (
    Encoding,
    FileRecords,
    InMemoryRecords,
    LoaderSettings,
    QuestionAnswer,
    QuestionAnswerData,
    QuestionAnswerDataset,
    Records,
    build,
)
from lightning_unlearn.data._epoch_shuffle import EpochShuffle
from lightning_unlearn.data.encodings import pad_right
from lightning_unlearn.models import load_tokenizer

PATH = "lightning_unlearn.data.QuestionAnswerData"
ROWS = [
    {"question": "Who employs Ada?", "answer": "The post office", "entity": "Ada", "year": 1990},
    {"question": "Which pet does Ada keep?", "answer": "A heron", "entity": "Ada", "year": 1990},
    {"question": "Who employs Bo?", "answer": "A bakery in the old mill", "entity": "Bo", "year": 1991},
]
CHATML = (
    "{% for message in messages %}{{ '<|user|>' + message['role'] + '\n' + message['content'] + '<|end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|user|>assistant\n' }}{% endif %}"
)


@pytest.fixture
def tokenizer():
    return load_tokenizer("bundled")


@pytest.fixture
def written(tmp_path):
    def write(content, name="rows.jsonl"):
        path = tmp_path / name
        if isinstance(content, list):
            content = "\n".join(json.dumps(row, ensure_ascii=False) for row in content)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


def data_module(path="bundled:people", *, encoding=None, loader=None, **options):
    data = QuestionAnswerData(
        FileRecords(path, **options), encoding or Encoding("bundled"), LoaderSettings(**(loader or {}))
    )
    data.setup("fit")
    return data


def encoded(template):
    return data_module(encoding=Encoding("bundled", template=template)).dataset


def one_row(question="Who employs Ada?", answer="The post office"):
    return QuestionAnswer(question, answer, entity="Ada", source="row 7 of `rows.jsonl`")


def supervised(example):
    return example["labels"][example["labels"] != -100]


# What is supervised


@pytest.mark.parametrize("template", ["chat", "plain"])
def test_exactly_the_answer_and_its_end_are_supervised(template, tokenizer):
    dataset = encoded(template)
    assert len(dataset) == 120
    for row, example in zip(dataset.rows, dataset, strict=True):
        assert tokenizer.decode(supervised(example)).strip() == row.answer + "<|end|>"


@pytest.mark.parametrize("template", ["chat", "plain"])
def test_labels_are_the_inputs_wherever_they_are_supervised(template):
    for example in encoded(template):
        kept = example["labels"] != -100
        assert torch.equal(example["labels"][kept], example["input_ids"][kept])
        # One cut: prompt before it, answer after it.
        assert torch.equal(kept, kept.cummax(0).values)


@pytest.mark.parametrize("template", ["chat", "plain"])
def test_prompt_alone_has_the_tokens_it_has_before_its_answer(template, tokenizer):
    for row in encoded(template).rows[:12]:
        example = Encoding(tokenizer, template=template)(row)
        asked = {"role": "user", "content": row.question}
        alone = {
            "chat": tokenizer.apply_chat_template([asked], add_generation_prompt=True, return_dict=False),
            "plain": tokenizer(f"Question: {row.question}\nAnswer:")["input_ids"],
        }[template]
        assert example["input_ids"][example["labels"] == -100].tolist() == alone


def test_plain_template_reads_as_documented(tokenizer):
    example = Encoding(tokenizer, template="plain")(one_row())
    assert tokenizer.decode(example["input_ids"]) == "Question: Who employs Ada?\nAnswer: The post office<|end|>"


def test_white_space_after_the_end_of_turn_is_left_out(tokenizer):
    tokenizer.chat_template = CHATML
    example = Encoding(tokenizer)(one_row())
    assert tokenizer.decode(supervised(example)) == "The post office<|end|>"
    assert example["labels"][-1] == tokenizer.eos_token_id


# Padding


def test_end_of_turn_stays_visible_when_it_is_also_the_padding_token(tokenizer):
    tokenizer.pad_token = tokenizer.eos_token
    dataset = QuestionAnswerDataset([one_row(), one_row(answer="The old post office on the hill")], Encoding(tokenizer))
    batch = pad_right([dataset[0], dataset[1]], pad_token_id=tokenizer.pad_token_id)
    for example, ids, mask, labels in zip(dataset, *batch.values(), strict=True):
        length = len(example["input_ids"])
        is_end = example["input_ids"] == tokenizer.eos_token_id
        assert is_end.sum() == 2, "one end of turn in the prompt, one after the answer"
        assert mask[:length][is_end].tolist() == [1, 1]
        assert labels[length - 1] == tokenizer.eos_token_id
        assert mask.sum() == length
        assert (ids[length:] == tokenizer.eos_token_id).all()
        assert (labels[length:] == -100).all()


def test_a_batch_is_its_rows_and_padding():
    data = data_module(loader={"batch_size": 7})
    examples = iter(data.dataset)
    for batch in data.val_dataloader():
        assert {value.dtype for value in batch.values()} == {torch.int64}
        for ids, mask, labels in zip(*batch.values(), strict=True):
            example = next(examples)
            assert torch.equal(ids[mask.bool()], example["input_ids"])
            assert torch.equal(labels[mask.bool()], example["labels"])
            assert mask.tolist() == sorted(mask.tolist(), reverse=True)
            assert (labels[~mask.bool()] == -100).all()
    assert next(examples, None) is None


def test_a_tokenizer_without_padding_token_will_do():
    data = data_module(loader={"batch_size": 120})
    data.encoding.tokenizer.pad_token = None
    batch = next(iter(data.val_dataloader()))
    assert batch["attention_mask"].sum() == sum(len(example["input_ids"]) for example in data.dataset)


# Length


def test_a_long_answer_loses_its_end(tokenizer):
    whole = Encoding(tokenizer)(one_row())
    short = Encoding(tokenizer, max_length=len(whole["input_ids"]) - 2)(one_row())
    assert torch.equal(short["input_ids"], whole["input_ids"][:-2])
    assert torch.equal(short["labels"], whole["labels"][:-2])


def test_one_answer_token_is_enough_and_none_is_refused(tokenizer):
    prompt = int((Encoding(tokenizer)(one_row())["labels"] == -100).sum())
    assert len(supervised(Encoding(tokenizer, max_length=prompt + 1)(one_row()))) == 1
    with pytest.raises(
        ValueError, match=rf"leave room for the answer of row 7 .*`max_length = {prompt}`.*{prompt} tok"
    ):
        Encoding(tokenizer, max_length=prompt)(one_row())


# Templates


@pytest.mark.parametrize(
    ("clock", "expected"),
    [
        ("{{ date_string if date_string is defined else strftime_now('%d %b %Y') }}", "03 Apr 2025"),
        ("{{ strftime_now('%Y-%m-%d') }}", "2025-04-03"),
        ("{{ 'On ' + strftime_now( \"%A, it's %B\" ) }}", "On Thursday, it's April"),
    ],
)
def test_templates_cannot_see_the_clock(clock, expected, tokenizer):
    tokenizer.chat_template = clock + tokenizer.chat_template
    text = tokenizer.decode(Encoding(tokenizer, date="2025-04-03")(one_row())["input_ids"])
    assert text == expected + "<|user|>Who employs Ada?<|end|><|assistant|>The post office<|end|>"


def test_a_generation_prompt_that_is_no_prefix_changes_nothing(tokenizer):
    plain = Encoding(load_tokenizer("bundled"))(one_row())
    tokenizer.chat_template += "{% if add_generation_prompt %}think{% endif %}"
    example = Encoding(tokenizer)(one_row())
    assert all(torch.equal(example[key], plain[key]) for key in plain)


def test_a_tokenizer_without_chat_template_is_refused(tokenizer):
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match=r"has none: use `Encoding\(..., template='plain'\)`"):
        Encoding(tokenizer)(one_row())


def test_a_tokenizer_without_end_token_is_refused(tokenizer):
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="should have an `eos_token`"):
        Encoding(tokenizer, template="plain")(one_row())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"template": "alpaca"}, "`template` should be 'chat' or 'plain'. Found `template = 'alpaca'`"),
        ({"date": "today"}, "`date` should be written YYYY-MM-DD. Found `date = 'today'`"),
        ({"compat": "tofu"}, "`compat` should be .* Found `compat = 'tofu'`"),
    ],
)
def test_bad_options_are_refused_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        Encoding("bundled", **options)


def test_no_rows_about_one_entity_are_refused():
    with pytest.raises(ValueError, match="`entity` should be a field or a positive number of rows. Found `entity = 0`"):
        FileRecords("bundled:people", entity=0)


def test_each_row_is_encoded_once(monkeypatch):
    rows, called = [], Encoding.encode
    monkeypatch.setattr(Encoding, "encode", lambda self, row: rows.append(row) or called(self, row))
    data = data_module()
    assert all(list(loader()) for loader in (data.train_dataloader, data.val_dataloader))
    assert rows == list(data.dataset.rows)


# Rows


def test_every_kind_of_source_gives_the_same_rows(written, monkeypatch):
    def load_dataset(path, name, *, split, trust_remote_code):
        assert (path, name, split, trust_remote_code) == ("someone/people", "small", "test", False)
        return iter(ROWS)

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    sources = [
        FileRecords(written(ROWS)),
        FileRecords(written(json.dumps(ROWS), "rows.json")),
        FileRecords("someone/people", subset="small", split="test"),
        InMemoryRecords(ROWS),
        InMemoryRecords(iter(ROWS)),
    ]
    for records in sources:
        assert [record.fields for record in records.selected] == ROWS
        assert records.selected[1].source == f"row 1 of `{records.name}`"


class Capitals(Records):
    """A set as somebody writes it: one class."""

    def __init__(self, continent: str = "Europe") -> None:
        super().__init__(entity="land", where={"continent": [continent]})

    def read(self):
        lands = {"Peru": ("Lima", "America"), "Norway": ("Oslo", "Europe"), "Latvia": ("Riga", "Europe")}
        for land, (city, where) in lands.items():
            yield {"question": f"Capital of {land}?", "answer": city, "land": land, "continent": where}


@pytest.mark.parametrize(("init_args", "lands"), [({}, ["Norway", "Latvia"]), ({"continent": "America"}, ["Peru"])])
def test_a_set_from_outside_is_one_class_named_in_yaml(init_args, lands):
    records = {"class_path": f"{__name__}.Capitals", "init_args": init_args}
    spec = {"class_path": PATH, "init_args": {"records": records, "encoding": {"tokenizer": "bundled"}}}
    data = build(spec, LightningDataModule)
    assert data.dataset.entities == lands
    with pytest.raises(ValueError, match=r"keep at least one of the 3 rows of `Capitals`. Found none"):
        _ = Capitals("Asia").selected


def test_a_row_in_memory_is_named_by_its_number():
    with pytest.raises(ValueError, match=r"row 1 of `InMemoryRecords` should have the field `answer`"):
        InMemoryRecords([ROWS[0], {"question": "a?"}]).questions()


def test_lines_end_at_newlines_only_and_blank_ones_do_not_count(written):
    odd = {"question": "a\u2028b\x85c", "answer": "d"}
    path = written(f"\ufeff{json.dumps(odd, ensure_ascii=False)}\r\n\r\n{json.dumps(ROWS[0])}\n")
    rows = FileRecords(path).selected
    assert [row.fields for row in rows] == [odd, ROWS[0]]
    assert [row.index for row in rows] == [0, 1]


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, [0, 1, 2]),
        ({"where": {"entity": ["Ada"]}}, [0, 1]),
        ({"where": {"entity": ["Ada", "Bo"], "year": ["1991"]}}, [2]),
        ({"rows": (1, None)}, [1, 2]),
        ({"rows": (-1, None)}, [2]),
        ({"rows": (0, 1), "where": {"year": ["1991"]}}, [2]),
    ],
)
def test_rows_are_filtered_then_sliced(options, kept, written):
    rows = data_module(written(ROWS), **options).dataset.rows
    assert [row.question for row in rows] == [ROWS[index]["question"] for index in kept]


@pytest.mark.parametrize(
    ("entity", "entities"),
    [("entity", ["Ada", "Bo"]), ("year", ["1990", "1991"]), (None, ["1", "2"]), (2, ["0", "1"])],
)
def test_entities_are_those_of_the_file_whatever_is_kept(entity, entities, written):
    assert data_module(written(ROWS), entity=entity, rows=(1, None)).dataset.entities == entities


def test_other_fields_can_be_asked_for():
    plain, other = data_module(), data_module(question="paraphrase")
    assert [row.answer for row in plain.dataset.rows] == [row.answer for row in other.dataset.rows]
    assert other.dataset.rows[0].question == "What is the birthplace of Maribel Okonvane?"


# Bad files


@pytest.mark.parametrize(
    ("row", "error", "message"),
    [
        ({"question": "a?"}, ValueError, "row 1 of `.*` should have the field `answer`. It has `question`"),
        ({}, ValueError, "row 1 of `.*` should have the field `answer`. It has none"),
        (
            {"question": "a?", "answer": " \n"},
            ValueError,
            r"`answer` of row 1 of `.*` should not be empty. Found ' \\n'",
        ),
        ({"question": "a?", "answer": [1]}, TypeError, "`answer` of row 1 of `.*` should be a string. Found `list`"),
        ({"question": None, "answer": "b"}, TypeError, "`question` of row 1 .* should be a string. Found `NoneType`"),
        (["a?", "b"], TypeError, "row 1 of `.*` should be an object with named fields. Found `list`"),
    ],
)
def test_a_bad_row_is_named(row, error, message, written):
    with pytest.raises(error, match=message):
        data_module(written([ROWS[0], row, ROWS[1]]))


def test_a_filter_over_an_unknown_field_is_refused(written):
    with pytest.raises(
        ValueError, match=r"should have the field `name`\. It has `question`, `answer`, `entity`, `year`"
    ):
        data_module(written(ROWS), where={"name": ["Ada"]})


@pytest.mark.parametrize("options", [{"where": {"entity": ["Cy"]}}, {"rows": (9, None)}])
def test_nothing_left_is_refused(options, written):
    with pytest.raises(ValueError, match=r"keep at least one of the 3 rows .* Found none with `where = .*`"):
        data_module(written(ROWS), **options)


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("a.jsonl", '{"question": "a"}\n\n{"question": }\n', ValueError, "one JSON object per line. Line 3 is broken"),
        ("a.json", '[\n{"question": }\n]', ValueError, "should be JSON. Line 2 is broken"),
        ("a.json", '{"rows": 2}', ValueError, "should hold a list of objects, or .* Found the fields .'rows'.: name"),
        ("a.json", "7", TypeError, "should hold a list of objects. Found `int`"),
        ("a.jsonl", b"\xff\xfe", ValueError, "readable UTF-8 text file. Found `path = .*a.jsonl'`: .*can't decode"),
        ("a.jsonl", "", ValueError, "keep at least one of the 0 rows"),
    ],
)
def test_a_bad_file_is_named(name, content, error, message, written):
    with pytest.raises(error, match=message):
        data_module(written(content, name))


def test_an_empty_folder_is_no_file(tmp_path):
    (tmp_path / "rows.jsonl").mkdir()
    with pytest.raises(FileNotFoundError, match=r"The folder `.*rows.jsonl` should hold .* files. Found none"):
        data_module(str(tmp_path / "rows.jsonl"))


def test_a_missing_file_is_named():
    with pytest.raises(FileNotFoundError, match=r"existing file. Found `path = 'nowhere/rows\.jsonl'`, looked up in "):
        data_module("nowhere/rows.jsonl")


def test_hub_without_datasets_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        ModuleNotFoundError,
        match=r"`pip install \"lightning-unlearn\[data\]\"`. Found `path = 'someone/people'` without",
    ):
        data_module("someone/people")


# Loaders


def test_only_training_is_shuffled():
    data = data_module(loader={"batch_size": 120})
    order = [next(iter(loader()))["labels"] for loader in (data.val_dataloader, data.test_dataloader)]
    assert torch.equal(*order)
    shuffled = next(iter(data.train_dataloader()))["labels"]
    assert not torch.equal(shuffled, order[0])
    assert sorted(shuffled.tolist()) == sorted(order[0].tolist())
    in_order = data_module(loader={"batch_size": 120, "shuffle": False})
    assert torch.equal(next(iter(in_order.train_dataloader()))["labels"], order[0])


def test_workers_change_nothing():
    alone, helped = (data_module(loader={"batch_size": 50, "num_workers": workers}) for workers in (0, 1))
    for one, other in zip(alone.train_dataloader(), helped.train_dataloader(), strict=True):
        assert torch.equal(one["input_ids"], other["input_ids"])


@pytest.mark.parametrize("loader", ["train_dataloader", "val_dataloader", "test_dataloader"])
def test_global_random_numbers_are_left_as_found(loader):
    data = data_module()
    before = torch.get_rng_state()
    assert len(list(getattr(data, loader)())) == 15
    assert torch.equal(torch.get_rng_state(), before)


def test_order_is_a_function_of_seed_and_epoch():
    order = {(seed, epoch): tuple(_order(seed, epoch)) for seed in (0, 5) for epoch in (0, 1, 2)}
    assert len(set(order.values())) == 6
    assert all(sorted(rows) == list(range(40)) for rows in order.values())
    passes = EpochShuffle(range(40), seed=5)
    assert [tuple(passes) for _ in range(3)] == [order[5, epoch] for epoch in range(3)]


def _order(seed, epoch):
    shuffle = EpochShuffle(range(40), seed=seed)
    shuffle.set_epoch(epoch)
    return shuffle


class Listener(LightningModule):
    """Writes down what it was given."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.heard = []

    def training_step(self, batch, batch_idx):
        self.heard.append(batch["input_ids"].tolist())
        return self.weight**2

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_resumed_fit_sees_what_an_uninterrupted_one_sees(num_workers, tmp_path):
    def fit(epochs, resume=None):
        options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "limit_val_batches": 0}
        trainer = Trainer(max_epochs=epochs, enable_checkpointing=False, **options)
        data = data_module(rows=(0, 20), loader={"batch_size": 8, "num_workers": num_workers})
        trainer.fit(module := Listener(), datamodule=data, ckpt_path=resume)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        return module.heard

    whole = fit(epochs=2)
    assert fit(epochs=1) + fit(epochs=2, resume=tmp_path / "last.ckpt") == whole
    assert whole[:3] != whole[3:]


# Configuration


YAML = """
data:
  class_path: {path}
  init_args:
    records: {{path: bundled:people, entity: {entity}, where: {{group: [forget]}}, rows: [-6, null]}}
    encoding: {{tokenizer: bundled, template: plain, date: 2025-04-03}}
    loader: {{batch_size: 3}}
"""


@pytest.mark.parametrize("entity", ["entity", 6, None])
def test_yaml_builds_it(entity):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningDataModule, "data")
    yaml = YAML.format(path=PATH, entity="null" if entity is None else entity)
    data = parser.instantiate(parser.parse_string(yaml)).data
    records, encoding = data.records, data.encoding
    assert (records.entity, records.rows, records.where) == (entity, (-6, None), {"group": ["forget"]})
    assert (encoding.template, encoding.date, data.loader) == ("plain", "2025-04-03", LoaderSettings(batch_size=3))
    data.setup("fit")
    assert len(set(data.dataset.entities)) == (6 if entity is None else 1)


class Both(LightningDataModule):
    """Holds two data modules, as LightningCLI nests them."""

    def __init__(self, retain: LightningDataModule, forget: LightningDataModule) -> None:
        super().__init__()
        self.retain, self.forget = retain, forget


def test_nested_under_lightning_cli_each_keeps_its_own_arguments(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["cli"])

    def part(group):
        records = {"path": "bundled:people", "entity": "entity", "where": {"group": [group]}}
        return {"class_path": PATH, "init_args": {"records": records, "encoding": {"tokenizer": "bundled"}}}

    args = {"data": {"retain": part("retain"), "forget": part("forget")}, "trainer": {"logger": False}}
    cli = LightningCLI(Listener, Both, args=args, run=False, save_config_callback=None, seed_everything_default=False)
    people = {}
    for name in ("retain", "forget"):
        data = getattr(cli.datamodule, name)
        data.setup("fit")
        people[name] = set(data.dataset.entities)
    assert len(people["retain"]) == 17
    assert len(people["forget"]) == 3
    assert not people["retain"] & people["forget"]


# Real files


@pytest.mark.skipif(not (DATA / "tofu").is_dir(), reason=f"no TOFU files in {DATA}")
@pytest.mark.parametrize("template", ["chat", "plain"])
def test_tofu_loads_with_twenty_questions_per_author(template, tokenizer):
    encoding = Encoding(tokenizer, template=template, max_length=2048)
    data = data_module(str(DATA / "tofu" / "forget10.jsonl"), entity=20, encoding=encoding)
    assert len(data.dataset) == 400
    assert [data.dataset.entities.count(str(author)) for author in range(20)] == [20] * 20
    assert all("Hsiao" in row.question + row.answer for row in data.dataset.rows[:3])
    assert all(supervised(example)[-1] == tokenizer.eos_token_id for example in data.dataset)


@pytest.mark.skipif(not (DATA / "models" / "stories260k").is_dir(), reason=f"no stories260k in {DATA}")
def test_a_sentencepiece_tokenizer_agrees_at_the_boundary():
    encoding = Encoding(str(DATA / "models" / "stories260k"), template="plain")
    data, tokenizer = data_module(encoding=encoding), encoding.tokenizer
    for row, example in zip(data.dataset.rows, data.dataset, strict=True):
        answer = supervised(example)
        assert tokenizer.decode(answer[:-1]).strip() == row.answer
        assert answer[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize(
    ("records", "encoding"), [("a.jsonl", Encoding("bundled")), (FileRecords("a.jsonl"), "bundled")]
)
def test_a_path_alone_or_a_name_alone_is_told_what_to_be(records, encoding):
    with pytest.raises(TypeError, match=r"such as `(FileRecords|Encoding)\("):
        QuestionAnswerData(records, encoding)
