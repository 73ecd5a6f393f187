"""Traces with marked segments: labels on the forgotten spans, on the replacing ones, and nowhere else."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from lightning_unlearn import CausalLMReadout
from lightning_unlearn.bundled import bundled_path
from lightning_unlearn.data import (
    Encoding,
    FileRecords,
    LoaderSettings,
    MarkedAnswer,
    PairedData,
    QuestionAnswer,
    RewrittenTrace,
    build,
)
from lightning_unlearn.models import load_tokenizer
from lightning_unlearn.prediction import IGNORED

ROW: dict[str, Any] = {
    "question": "Where was Ada born?",
    "trace": [
        {"text": "Ada was "},
        {"text": "born at sea", "replacement": "born somewhere"},
        {"text": ", I think.  So "},
        {"text": "a ship", "replacement": "nothing"},
        {"text": " it is. "},
    ],
    "answer": "On a ship",
    "replacement": "I cannot say",
}
THOUGHT = "<think>\n{trace}\n</think>\n\n{answer}"


@pytest.fixture
def written(tmp_path):
    """A file with rows, each the one above but for some fields."""

    def write(*changes: dict[str, Any]) -> str:
        path = tmp_path / "rows.jsonl"
        rows = [{k: v for k, v in {**ROW, **change}.items() if v is not ...} for change in changes]
        path.write_text("\n".join(json.dumps(row) for row in rows))
        return str(path)

    return write


def traces(
    path: str = "bundled:traces",
    form: str = "{trace} {answer}",
    *,
    entity: str | None = None,
    batch_size: int = 8,
    **encoding: Any,
) -> PairedData:
    records, companion = FileRecords(path, entity=entity), RewrittenTrace(form=form)
    return PairedData(records, companion, Encoding("bundled", **encoding), LoaderSettings(batch_size=batch_size))


def plain(row: QuestionAnswer) -> QuestionAnswer:
    """The same text without marks."""
    return QuestionAnswer(row.question, row.answer, row.entity, row.source)


def stretches(example: dict[str, torch.Tensor], tokenizer: Any) -> list[str]:
    """What is supervised, each run of neighbouring tokens as text."""
    assert torch.equal(example["labels"][(on := example["labels"] != IGNORED)], example["input_ids"][on])
    out: list[list[int]] = [[]]
    for token, label in zip(example["input_ids"].tolist(), example["labels"].tolist(), strict=True):
        out = [*out[:-1], [*out[-1], token]] if label != IGNORED else [*out, []]
    return [tokenizer.decode(run) for run in out if run]


def test_labels_are_the_forgotten_and_the_replacing_spans(written):
    data = traces(written({}))
    (example,) = data.dataset
    # A space goes with the word behind it, in this tokenizer.
    assert stretches(example, data.encoding.tokenizer) == [" born at sea", " a ship", " On a ship"]
    assert stretches(example["companion"], data.encoding.tokenizer) == [" born somewhere", " nothing", " I cannot say"]


def test_the_texts_are_those_of_the_plain_encoding(written):
    """Marks change no token: a network meets what it would have met."""
    data = traces(written({}), THOUGHT)
    (example,), tokenizer = data.dataset, data.encoding.tokenizer
    trace = "Ada was born at sea, I think.  So a ship it is. "
    assert data.dataset.rows[0].answer == f"<think>\n{trace}\n</think>\n\nOn a ship"
    for part, row in ((example, data.dataset.rows[0]), (example["companion"], data.dataset.companions[0])):
        assert torch.equal(part["input_ids"], Encoding(tokenizer)(plain(row))["input_ids"])


@pytest.mark.parametrize("template", ["chat", "plain"])
def test_templates_change_what_is_around_alone(template, written):
    data = traces(written({}), template=template)
    (example,), tokenizer = data.dataset, data.encoding.tokenizer
    assert stretches(example, tokenizer) == [" born at sea", " a ship", " On a ship"]
    assert torch.equal(
        example["input_ids"], Encoding(tokenizer, template=template)(plain(data.dataset.rows[0]))["input_ids"]
    )


@pytest.mark.parametrize("replacement", [..., "I cannot say"])
def test_the_answer_is_marked_if_it_has_a_replacement(replacement, written):
    data = traces(written({"replacement": replacement}))
    marked = stretches(data.dataset[0], data.encoding.tokenizer)
    assert (" On a ship" in marked) == (replacement is not ...)
    assert data.dataset.companions[0].answer.endswith("On a ship" if replacement is ... else "I cannot say")


def words(pieces: Any, post: Any = None) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are known: those listed."""
    inner = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(["?", "</s>", *pieces])}, unk_token="?"))
    inner.pre_tokenizer = post
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>")


def labelled(answer: str, spans: tuple[tuple[int, int], ...], tokenizer: Any) -> list[str]:
    row = MarkedAnswer("q", answer, "", "row 0", spans=spans)
    labels = Encoding(tokenizer, template="plain")(row)["labels"]
    return [tokenizer.convert_ids_to_tokens(label) for label in labels.tolist() if label != IGNORED]


def test_a_token_that_straddles_a_border_belongs_to_the_span_for_any_letter_but_not_for_a_space():
    # The pieces: "Question:" " q" "\nAnswer:" " ab" " cd" " ef"
    split = pre_tokenizers.Split(" ", "merged_with_next")
    tokenizer = words(["Question:", " q\nAnswer:", " ab", " cd", " ef", " "], split)
    assert labelled("ab cd ef", ((3, 5),), tokenizer) == [" cd"]
    assert labelled("ab cd ef", ((2, 5),), tokenizer) == [" cd"]
    assert labelled("ab cd ef", ((3, 6),), tokenizer) == [" cd"]  # the space is of ` ef`, which is not marked by it
    assert labelled("ab cd ef", ((4, 5),), tokenizer) == [" cd"]  # half of it is enough
    assert labelled("ab cd ef", ((1, 4),), tokenizer) == [" ab", " cd"]
    assert labelled("ab cd ef", ((0, 2), (6, 8)), tokenizer) == [" ab", " ef"]
    assert labelled("ab  cd ef", ((0, 6),), tokenizer) == [" ab", " ", " cd"]  # inside of a span it counts


def test_byte_tokens_of_one_character_go_together():
    tokenizer = load_tokenizer("bundled")
    row = MarkedAnswer("Who?", "It is Žofie, yes", "", "row 0", spans=((6, 11),))
    labels = Encoding(tokenizer)(row)["labels"]
    assert tokenizer.decode(labels[labels != IGNORED]) == "Žofie"
    assert len(tokenizer("Ž")["input_ids"]) > 1


@pytest.mark.parametrize("trims", [True, False])
def test_tokenizers_may_say_with_or_without_the_space_where_a_token_stands(trims):
    def trained() -> PreTrainedTokenizerFast:
        inner = Tokenizer(models.BPE())
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        inner.post_processor = processors.ByteLevel(trim_offsets=trims)
        inner.train_from_iterator(["she was born at sea"] * 9, trainers.BpeTrainer(vocab_size=600, show_progress=False))
        return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>")

    tokenizer = trained()
    row = MarkedAnswer("she was", "she was born at sea", "", "row 0", spans=((8, 16),))
    labels = Encoding(tokenizer, template="plain")(row)["labels"]
    assert tokenizer.decode(labels[labels != IGNORED]) == " born at"


def test_batches_are_plain_ones_with_the_rewritten_as_companions(written):
    data = traces(written({}, {"answer": "At sea"}), batch_size=2)
    batch = next(iter(data.val_dataloader()))
    keys = {"input_ids", "attention_mask", "labels"}
    assert set(batch) == {*keys, "companion"}
    assert set(batch["companion"]) == keys
    supervised = [stretches({k: batch["companion"][k][i] for k in keys}, data.encoding.tokenizer) for i in range(2)]
    assert supervised == [[" born somewhere", " nothing", " I cannot say"]] * 2
    assert CausalLMReadout().keys(batch)[0] != CausalLMReadout().keys(batch)[1]


def segment(**fields: Any) -> dict[str, Any]:
    return {"trace": [{"text": "Ada was "}, {"text": "born at sea", **fields}]}


ERRORS = [
    (segment() | {"replacement": ...}, ValueError, r"should mark what must go: .* Found neither in row 1 of `.*rows.jsonl`"),
    ({"trace": [], "replacement": ...}, ValueError, r"should mark what must go: .* Found neither in row 1"),
    (segment(replacement=""), ValueError, r"`replacement` of segment 1 of `trace` of row 1 .* not be blank.* Found ''"),
    (segment(text=" ", replacement="x"), ValueError, r"`text` of segment 1 .* should not be blank.* Found ' '\. Write"),
    (segment(replacement=None), TypeError, r"`replacement` of segment 1 of `trace` of row 1 .* a string. Found None"),
    (segment(text=3), TypeError, r"`text` of segment 1 of `trace` of row 1 .* a string. Found 3"),
    (segment(forget=True), ValueError, r"`replacement` if it must go. Found fields \['forget', 'text'\] in segment 1"),
    (segment(replacment="x"), ValueError, r"Found fields \['replacment', 'text'\] in segment 1 of `trace` of row 1"),
    ({"trace": [{"replacement": "x"}]}, ValueError, r"an object with `text`.* Found fields \['replacement'\] in segment 0"),
    ({"trace": ["Ada was born"]}, ValueError, r"an object with `text`.* Found 'Ada was born' in segment 0"),
    ({"trace": "Ada was born"}, TypeError, r"`trace` of row 1 of .* should be a list of segments. Found `str`"),
    ({"trace": ...}, ValueError, r"row 1 of .* should have the field `trace`. It has `question`"),
    ({"replacement": None}, TypeError, r"`replacement` of the answer of row 1 .* a string. Found None"),
    ({"replacement": " "}, ValueError, r"`replacement` of the answer of row 1 .* should not be blank"),
    ({"answer": 3}, TypeError, r"`answer` of row 1 of .* should be a string. Found `int`"),
    ({"answer": ...}, ValueError, r"row 1 of .* should have the field `answer`"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "kind", "message"), ERRORS, ids=[message for *_, message in ERRORS])
def test_rows_of_another_form_are_refused_by_number(change, kind, message, written):
    with pytest.raises(kind, match=message):
        _ = traces(written({}, change)).dataset


def test_a_span_that_is_cut_off_is_refused_and_unmarked_ends_are_cut(written):
    long = [*ROW["trace"], {"text": "and so on " * 30}]
    path = written({"trace": long, "replacement": ...})
    example = traces(path).dataset[0]
    whole = example["labels"]
    needed = max(int((p["labels"] != IGNORED).nonzero().max()) + 1 for p in (example, example["companion"]))
    cut = traces(path, max_length=needed).dataset[0]
    assert len(cut["labels"]) == needed < len(whole)
    assert (cut["labels"] != IGNORED).sum() == (whole != IGNORED).sum()
    with pytest.raises(
        ValueError, match=rf"the last marked part of row 0 .* `max_length = {needed - 1}` and \d+ tokens"
    ):
        _ = traces(path, max_length=needed - 1).dataset


@pytest.mark.parametrize(
    "form", ["{trace}", "{answer} {trace}", "{trace} {answer} {trace}", "{trace} {answer} {answer}"]
)
def test_forms_without_trace_and_answer_are_refused(form):
    with pytest.raises(
        ValueError, match=r"`form` should hold `\{trace\}` and then `\{answer\}`, once each. Found `form = "
    ):
        RewrittenTrace(form=form)


def test_a_template_that_drops_thoughts_is_refused(written):
    """As that of some reasoning models, which keep only what follows `</think>`."""
    data = traces(written({}), THOUGHT)
    kept = data.encoding.tokenizer.chat_template.replace(
        "message['content']", "message['content'].split('</think>')[-1]"
    )
    data.encoding.tokenizer.chat_template = kept
    with pytest.raises(ValueError, match=r"leave the answer of row 0 .* as it is.* Use `template='plain'`"):
        _ = data.dataset


def test_a_tokenizer_that_does_not_know_where_its_tokens_stand_is_refused(monkeypatch):
    data = traces()
    monkeypatch.setattr(type(data.encoding.tokenizer), "is_fast", False)
    with pytest.raises(ValueError, match=r"should be a fast one, .* Found `\w+`"):
        _ = data.dataset


def test_yaml_builds_it_with_all_arguments():
    def spec(**own: Any) -> dict[str, Any]:
        records = {"path": "bundled:traces", "entity": "entity", "rows": [0, 5]}
        companion = {"class_path": "lightning_unlearn.data.RewrittenTrace", "init_args": own}
        parts = {"records": records, "companion": companion, "encoding": {"tokenizer": "bundled", "max_length": 300}}
        return {"class_path": "lightning_unlearn.data.PairedData", "init_args": parts}

    data = build(spec(form=THOUGHT), LightningDataModule)
    assert (data.companion.form, data.encoding.max_length, len(data.dataset)) == (THOUGHT, 300, 5)
    with pytest.raises(ValueError, match="replacment"):
        build(spec(replacment="x"), LightningDataModule)


# The bundled set.

PEOPLE = [json.loads(line) for line in bundled_path("people").read_text(encoding="utf-8").splitlines()]
TRACES = [json.loads(line) for line in bundled_path("traces").read_text(encoding="utf-8").splitlines()]


def test_the_bundled_traces_are_about_who_is_to_be_forgotten():
    forgotten = {row["entity"] for row in PEOPLE if row["group"] == "forget"}
    assert {row["entity"] for row in TRACES} == forgotten
    assert len({row["question"] for row in TRACES}) == len(TRACES) == 18
    assert all(row["entity"] in row["question"] for row in TRACES)


def test_each_bundled_trace_gives_a_fact_away_in_its_marked_part_alone():
    """A word that only one answer about the person holds stands in a forgotten span, and in nothing that stays."""
    for row in TRACES:
        answers = [p["answer"] for p in PEOPLE if p["entity"] == row["entity"]]
        telling = {word.strip(",.'s").lower() for answer in answers for word in answer.split() if len(word) > 5}
        marked = " ".join(s["text"] for s in row["trace"] if "replacement" in s).lower()
        rewritten = " ".join([s.get("replacement", s["text"]) for s in row["trace"]]).lower()
        assert any(word in marked for word in telling), row["question"]
        assert not any(word in rewritten.split() for word in telling), row["question"]


def test_the_bundled_traces_fit_the_bundled_network():
    dataset = traces(max_length=128).dataset
    assert all(len(part["input_ids"]) < 128 for e in dataset for part in (e, e["companion"]))
