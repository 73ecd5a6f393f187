"""What cannot be encoded as it was meant is refused by name, or said once with a count."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from lightning_unlearn.data import (
    Encoding,
    InMemoryRecords,
    LoaderSettings,
    MarkedAnswer,
    QuestionAnswer,
    QuestionAnswerData,
    QuestionAnswerDataset,
    Turn,
)
from lightning_unlearn.data._paired_dataset import PairedDataset
from lightning_unlearn.models import load_tokenizer

CHAT = "{% for m in messages %}{{m.role}}:{{m.content}}{{eos_token}}{% endfor %}"
BEFORE = (Turn("system", "Be brief"), Turn("user", "Who is Ada?"), Turn("assistant", "A pilot"))


def row(question: str = "Where?", answer: str = "At sea", **fields: Any) -> QuestionAnswer:
    return QuestionAnswer(question, answer, "Ada", **{"source": "row 7 of `a.jsonl`", **fields})


def chat(template: Any, **options: Any) -> Encoding:
    tokenizer = load_tokenizer("bundled")
    tokenizer.chat_template = template
    return Encoding(tokenizer, **options)


def said(example: dict[str, torch.Tensor], tokenizer: Any) -> str:
    return tokenizer.decode(example["labels"][example["labels"] != -100])


# Templates that drop, change or refuse.

DROPPED = {
    "the question": (
        "{% for m in messages %}{% if m.role == 'assistant' %}{{m.content}}{% endif %}{% endfor %}",
        "`user`",
    ),
    "the answer": (
        "{% for m in messages %}{% if m.role == 'user' %}{{m.content}}{% endif %}{% endfor %}",
        "`assistant`",
    ),
    "all": ("Hello", "`user`, `assistant`"),
    "another field": ("{% for m in messages %}{{m.value}}{% endfor %}", "`user`, `assistant`"),
}


@pytest.mark.parametrize("name", DROPPED)
def test_templates_that_drop_a_turn_are_refused(name: str) -> None:
    template, roles = DROPPED[name]
    with pytest.raises(
        ValueError, match=rf"write every turn of row 7 .* drops those of {roles}: use `template='plain'`"
    ):
        chat(template)(row())


def test_a_role_that_the_template_leaves_out_is_named() -> None:
    known = "{% for m in messages %}{% if m.role != 'tool' %}{{m.content}}{{eos_token}}{% endif %}{% endfor %}"
    chat(known)(row(before=BEFORE))
    with pytest.raises(ValueError, match="drops those of `tool`"):
        chat(known)(row(before=(*BEFORE, Turn("tool", "42"))))


RAISING = {
    "by itself": ("{{ raise_exception('only for images') }}", "TemplateError: only for images"),
    "undefined": ("{{ functions.name }}", "UndefinedError: 'functions' is undefined"),
    "type": ("{{ messages + 1 }}", "TypeError"),
    "syntax": ("{% for %}", "TemplateSyntaxError"),
    "arithmetic": ("{{ 1 // 0 }}", "ZeroDivisionError"),
}


@pytest.mark.parametrize("name", RAISING)
def test_what_a_template_raises_is_passed_on_with_the_way_out(name: str) -> None:
    template, raised = RAISING[name]
    with pytest.raises(
        ValueError, match=rf"take turns of `user`, `assistant` \(row 7 .*\)\. It raised {raised}.*`template_arg"
    ):
        chat(template)(row())


def test_an_argument_that_the_template_asks_for_can_be_given() -> None:
    encoding = chat("{{ functions[0] }}\n" + CHAT, template_arguments={"functions": ["look_up"]})
    assert encoding.tokenizer.decode(encoding(row())["input_ids"]).startswith("look_up\nuser:Where?")


@pytest.mark.parametrize("answer", ["<think>On a map.</think>At sea", "<think>\n\n</think>\n\nAt sea", "x</think>y"])
def test_a_thought_in_an_answer_is_supervised_with_it_or_refused(answer: str) -> None:
    """Some templates write thoughts anew, some drop them."""
    thought = "m.content.split('</think>')[0].replace('<think>', '') | trim"
    anew = (
        "{% for m in messages %}{{m.role}}:{% if '</think>' in m.content %}<think>\n{{" + thought + "}}\n</think>\n\n"
        "{{m.content.split('</think>')[1] | trim}}{% else %}<think></think>{{m.content}}{% endif %}{{eos_token}}{% endfor %}"
    )
    encoding = chat(anew)
    if answer.startswith("<think>"):
        assert "".join(said(encoding(row(answer=answer)), encoding.tokenizer).split()) == "".join(
            f"{answer}<|end|>".split()
        )
    else:
        assert said(encoding(row(answer="x")), encoding.tokenizer) == "x<|end|>"
    with pytest.raises(ValueError, match=r"leave the answer of row 7 .* some templates drop what was thought"):
        chat(CHAT.replace("m.content", "m.content.split('</think>')[-1]"))(row(answer=answer))


def test_contents_that_are_escaped_are_counted() -> None:
    encoding = chat(CHAT.replace("m.content", "m.content | tojson"))
    rows = [row("Who?", "Ada"), row("Who?", 'The "pilot"'), row('"Who?"', "Ada")]
    with pytest.warns(UserWarning, match=r"tokens of 2 of 3 rows do not say .* the answer of row 7 .*pilot") as caught:
        QuestionAnswerDataset(rows, encoding)
    assert len(caught) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"template": "plain", "template_arguments": {"a": 1}},
            "should go with `template='chat'`. Found `template = 'plain'`",
        ),
        (
            {"template_arguments": {"tokenize": True, "messages": []}},
            r"Found \['messages', 'tokenize'\], which are set here",
        ),
    ],
)
def test_arguments_that_are_not_the_templates_are_refused_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Encoding("bundled", **options)


def test_arguments_can_stand_in_yaml() -> None:
    parser = ArgumentParser()
    parser.add_class_arguments(Encoding, "encoding")
    yaml = '{"encoding": {"tokenizer": "bundled", "template_arguments": {"enable_thinking": false, "effort": "low"}}}'
    built = parser.instantiate_classes(parser.parse_string(yaml)).encoding
    assert built.template_arguments == {"enable_thinking": False, "effort": "low"}


def test_arguments_that_the_template_does_not_read_are_refused() -> None:
    """A misspelt `enable_thinking` would change nothing, and nobody would know."""
    with pytest.raises(
        ValueError, match="variables of the chat template .* It reads no `enable_thnking`: leave it out"
    ):
        chat("{% if enable_thinking %}think{% endif %}" + CHAT, template_arguments={"enable_thnking": False})(row())


def test_a_template_that_asks_the_clock_in_its_own_way_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"as `strftime_now\('%d %b %Y'\)`.* another way: change `tokenizer.chat_template`"
    ):
        chat("{% set form = '%Y' %}{{ strftime_now(form) }}" + CHAT)(row())


def test_of_several_templates_the_one_for_tools_is_taken_with_tools() -> None:
    named = {"default": CHAT, "tool_use": "{{ tools | length }} tools\n" + CHAT}
    with_tools, without = chat(named, template_arguments={"tools": [{"name": "look_up"}]}), chat(named)
    texts = [one.tokenizer.decode(one(row())["input_ids"]) for one in (without, with_tools)]
    assert texts[1] == "1 tools\n" + texts[0]


def test_a_thought_of_ones_own_replaces_an_empty_one() -> None:
    encoding = chat(CHAT + "{% if add_generation_prompt %}assistant:<think></think>{% endif %}")
    prompts = [encoding.tokenizer.decode(encoding(row(answer=a))["input_ids"]) for a in ("sea", "<think>x</think>sea")]
    assert prompts[0].endswith("assistant:<think></think>sea<|end|>")
    assert prompts[1].endswith("assistant:<think>x</think>sea<|end|>")


# Tokenizers that know too little.


def letters(known: str, unknown: str | None) -> PreTrainedTokenizerFast:
    """One token for each letter of ``known``."""
    pieces = {piece: i for i, piece in enumerate(["</s>", *([unknown] if unknown else []), *sorted(set(known))])}
    inner = Tokenizer(models.BPE(pieces, [], unk_token=unknown))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    inner.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", unk_token=unknown)


LATIN = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz :?\n"


@pytest.mark.parametrize("unknown", ["<unk>", None], ids=["unknown", "dropped"])
@pytest.mark.parametrize("template", ["chat", "plain"])
@pytest.mark.parametrize(
    ("question", "answer", "name"), [("Where?", "在海上", "answer"), ("她在哪里?", "At sea", "question")]
)
def test_a_script_without_tokens_is_refused(
    unknown: str | None, template: Any, question: str, answer: str, name: str
) -> None:
    tokenizer = letters(LATIN, unknown)
    tokenizer.chat_template = CHAT
    with pytest.raises(ValueError, match=rf"know the letters of the {name} of row 7 .* made for this script"):
        Encoding(tokenizer, template=template)(row(question, answer))


@pytest.mark.parametrize("unknown", ["<unk>", None], ids=["unknown", "dropped"])
def test_letters_without_tokens_are_counted(unknown: str | None) -> None:
    rows = [row(), row(answer="Žofie's", source="row 8"), row("Who is Žofie?"), row()]
    with pytest.warns(
        UserWarning, match=r"tokens of 2 of 4 rows .*: the answer of row 8, \"Žofie's\", is read as 'ofies'"
    ):
        QuestionAnswerDataset(rows, Encoding(letters(LATIN, unknown), template="plain"))


@pytest.mark.parametrize("text", ["\ufb01ne", "\uff37\uff48\uff4f", "Zo\u0308e", "a\u200db", "WHERE", " a  b\tc\n"])
def test_another_spelling_of_the_same_is_the_same(text: str) -> None:
    """Many tokenizers put Unicode into one form, or all letters into lower case."""
    tokenizer = letters(LATIN + "\u00f6", None)
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    assert Encoding(tokenizer, template="plain").encode(row(answer=text)).altered is None


# Tokenizers of other kinds.


def byte_tokenizer() -> Any:
    tokenizer = ByT5Tokenizer()
    tokenizer.chat_template = CHAT
    return tokenizer


@pytest.mark.parametrize("template", ["chat", "plain"])
@pytest.mark.parametrize("before", [(), BEFORE], ids=["alone", "before"])
def test_a_slow_tokenizer_will_do(template: Any, before: tuple[Turn, ...]) -> None:
    """ByT5's ends every text with its own end of turn; in a row there is one."""
    tokenizer = byte_tokenizer()
    assert not tokenizer.is_fast
    example = Encoding(tokenizer, template=template)(row(before=before))
    assert said(example, tokenizer).lstrip() == "At sea</s>"
    ends = 1 if template == "plain" else 2 + len(before)
    assert (example["input_ids"] == tokenizer.eos_token_id).sum() == ends


def test_a_slow_tokenizer_cannot_mark() -> None:
    marked = MarkedAnswer("Where?", "At sea", "Ada", "row 7", spans=((3, 6),))
    with pytest.raises(ValueError, match="should be a fast one.* Found `ByT5Tokenizer`"):
        Encoding(byte_tokenizer())(marked)


class Merging(ByT5Tokenizer):
    """Reads ``:A`` as one token."""

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        out: list[str] = []
        for piece in super()._tokenize(text):
            if out and out[-1] == ":" and piece == "A":
                out[-1] = "."
            else:
                out.append(piece)
        return out


def test_a_slow_tokenizer_that_merges_prompt_and_answer_is_refused() -> None:
    tokenizer = Merging()
    tokenizer.chat_template = CHAT
    Encoding(tokenizer)(row(answer="Far away"))
    with pytest.raises(
        ValueError, match=r"tokens of row 7 .* begin with those of its prompt.*`Merging` merges .*assistant:"
    ):
        Encoding(tokenizer)(row())


def merging(piece: str, *, ends: bool = False) -> PreTrainedTokenizerFast:
    """A fast tokenizer that reads ``piece`` as one token."""
    inner = Tokenizer(models.BPE())
    inner.decoder = decoders.Fuse()
    trainer = trainers.BpeTrainer(vocab_size=120, special_tokens=["</s>"], show_progress=False)
    inner.train_from_iterator([LATIN, *[piece] * 99], trainer)
    if ends:
        inner.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>")


@pytest.mark.parametrize(
    ("template", "piece"),
    [("chat", ":A"), ("chat", ": A"), ("chat", ": At sea"), ("plain", ": A"), ("plain", ": At sea")],
)
def test_a_token_across_the_border_is_supervised(template: Any, piece: str) -> None:
    """It holds a letter of the answer: left out, that letter would be neither learnt nor forgotten."""
    tokenizer = merging(piece)
    space = " " if piece.startswith(": ") else ""
    tokenizer.chat_template = CHAT.replace(":", f":{space}")
    example = Encoding(tokenizer, template=template)(row())
    assert said(example, tokenizer) == f":{space}At sea</s>"
    assert tokenizer.decode(example["input_ids"][example["labels"] == -100])[-1] == ("t" if template == "chat" else "r")


@pytest.mark.parametrize("ends", [False, True])
def test_a_tokenizer_that_ends_every_text_ends_a_plain_row_once(ends: bool) -> None:
    tokenizer = merging("at", ends=ends)
    example = Encoding(tokenizer, template="plain")(row())
    assert said(example, tokenizer) == " At sea</s>"
    assert (example["input_ids"] == tokenizer.eos_token_id).sum() == 1


def test_without_an_end_token_the_end_stays_open_and_is_said() -> None:
    tokenizer = load_tokenizer("bundled")
    tokenizer.eos_token, tokenizer.chat_template = None, "{% for m in messages %}{{m.role}}:{{m.content}}\n{% endfor %}"
    with pytest.warns(UserWarning, match="has no `eos_token`: a network does not learn where to stop. Set one"):
        (example,) = QuestionAnswerDataset([row()], Encoding(tokenizer))
    assert said(example, tokenizer) == "At sea"


# Turns before the question.


def test_plain_text_has_earlier_turns_in_the_form_of_the_last() -> None:
    encoding = Encoding("bundled", template="plain")
    example = encoding(row(before=BEFORE))
    assert encoding.tokenizer.decode(example["input_ids"]) == (
        "Be brief\n\nQuestion: Who is Ada?\nAnswer: A pilot\n\nQuestion: Where?\nAnswer: At sea<|end|>"
    )
    assert said(example, encoding.tokenizer) == " At sea<|end|>"


@pytest.mark.parametrize("template", ["chat", "plain"])
def test_a_chat_is_the_question_after_its_turns(template: Any) -> None:
    encoding = Encoding("bundled", template=template)
    alone, after = encoding(row()), encoding(row(before=BEFORE))
    length = len(alone["input_ids"])
    assert torch.equal(after["input_ids"][-length:], alone["input_ids"])
    assert torch.equal(after["labels"][-length:], alone["labels"])
    assert (after["labels"][:-length] == -100).all()


# Length.


def records(answers: list[str]) -> InMemoryRecords:
    return InMemoryRecords([{"question": "Where?", "answer": answer} for answer in answers])


def test_answers_that_are_cut_are_said_once_with_counts(recwarn: pytest.WarningsRecorder) -> None:
    rows = [row(source=f"row {n}", answer="a" * n) for n in (1, 4, 9)]
    long = [len(Encoding("bundled").encode(one).ids) for one in rows]
    limit = long[1] - 1
    QuestionAnswerDataset(rows, Encoding("bundled", max_length=limit))
    (warning,) = recwarn
    assert str(warning.message) == (
        f"`max_length = {limit}` cuts the answers of 2 of 3 rows: {1 + long[2] - limit} tokens in all are neither learnt "
        f"nor forgotten, at most {long[2] - limit}, of row 9. Nothing is cut with `max_length = {long[2]}`."
    )
    recwarn.clear()
    QuestionAnswerDataset(rows, Encoding("bundled", max_length=long[2]))
    assert not list(recwarn)


def test_data_modules_say_it_in_setup() -> None:
    encoding = Encoding("bundled", max_length=12)
    with pytest.warns(UserWarning, match="cuts the answers of 1 of 2 rows") as caught:
        QuestionAnswerData(records(["sea", "far " * 20]), encoding).setup("fit")
    assert len(caught) == 1


def test_companions_are_counted_on_their_own() -> None:
    rows, companions = [row(), row()], [row(answer=answer) for answer in ("No", "far " * 9, "far " * 8, "No")]
    with pytest.warns(UserWarning, match="cuts the answers of 2 of 4 rows") as caught:
        PairedDataset(rows, companions, Encoding("bundled", max_length=16))
    assert len(caught) == 1


def test_turns_that_leave_no_room_are_an_error() -> None:
    fits = len(Encoding("bundled").encode(row()).ids)
    Encoding("bundled", max_length=fits)(row())
    with pytest.raises(ValueError, match=rf"leave room for the answer of row 7 .*`max_length = {fits}` and a prompt"):
        Encoding("bundled", max_length=fits)(row(before=BEFORE * 3))


# Padding.


@pytest.mark.parametrize("compat", [None, "open-unlearning"])
@pytest.mark.parametrize("change", ["added", "end", "none", "left", "own"])
def test_padding_has_an_embedding_in_every_network(change: str, compat: Any) -> None:
    """A token that was added for padding has none where the network was not resized."""
    tokenizer = load_tokenizer("bundled")
    size = len(tokenizer)
    if change == "added":
        tokenizer.add_special_tokens({"pad_token": "[PAD]"})
        assert tokenizer.pad_token_id == size
    if change in ("end", "none"):
        tokenizer.pad_token = tokenizer.eos_token if change == "end" else None
    if change == "left":
        tokenizer.padding_side = "left"
    data = QuestionAnswerData(records(["sea", "far away"]), Encoding(tokenizer, compat=compat), LoaderSettings(2))
    batch = next(iter(data.val_dataloader()))
    assert batch["input_ids"].max() < size
    length = len(data.dataset[0]["input_ids"])
    assert torch.equal(batch["input_ids"][0, :length], data.dataset[0]["input_ids"])
    assert (batch["attention_mask"][0, length:] == 0).all()
    assert (batch["labels"][0, length:] == -100).all()
    assert batch["attention_mask"].dtype == torch.int64
