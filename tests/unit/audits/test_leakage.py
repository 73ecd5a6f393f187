"""What leaks is what is said: by known networks, and by scripts that stand for networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_unlearn import (
    Encoding,
    InMemoryRecords,
    LoaderSettings,
    QuestionAnswerData,
    TextData,
    TextWindows,
    TinyCausalLM,
)
from lightning_unlearn.audits import Audit, ExactLeak, Generation, HalfRecall, SampledLeak, Verbatim, _replies
from lightning_unlearn.audits.leakage import (
    AnswerScore,
    BehindTrace,
    ContainsAnswer,
    ExactAnswer,
    InTrace,
    MultipleChoice,
    OnlyInTrace,
    Phrased,
    Renamed,
    RougeAtLeast,
    RougeRecall,
    TrueFalse,
    answer_styles,
)
from lightning_unlearn.audits.leakage.styles import AnswerStyle
from lightning_unlearn.data import (
    MarkedAnswer,
    PairedData,
    Probe,
    QuestionAnswer,
    QuestionAnswerDataset,
    RewrittenTrace,
    load_probe,
)
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.models import load_tokenizer
from lightning_unlearn.observation import Observation
from lightning_unlearn.readouts import CausalLMReadout, PairedReadout

TOKENIZER: Any = load_tokenizer("bundled")
TOWNS = {"Ada": "Oslo", "Bo": "Lima", "Cy": "Rome", "Di": "Kyiv", "Ed": "Bern", "Flo": "Riga"}

SCORES: list[tuple[AnswerScore, str, float]] = [
    (ExactAnswer(), "Oslo!", 1.0),
    (ExactAnswer(), "It is Oslo", 0.0),
    (ContainsAnswer(), "It is oslo.", 1.0),
    (RougeRecall(), "the port", 0.0),
    (RougeAtLeast(1.0), "In Oslo", 1.0),
    (RougeAtLeast(0.5), "nowhere", 0.0),
    (InTrace(), "<think>Oslo? Never tell.</think> No.", 1.0),
    (InTrace(), "Oslo? Never tell.</think> No.", 1.0),
    (InTrace(), "<think>It is Oslo, but", 1.0),
    (InTrace(), "Oslo.", 0.0),
    (InTrace(), "<think></think>Oslo.", 0.0),
    (BehindTrace(), "<think>Oslo? Never tell.</think> No.", 0.0),
    (BehindTrace(), "<think>It is Oslo, but", 0.0),
    (BehindTrace(), "Oslo.", 1.0),
    (OnlyInTrace(), "<think>Oslo? Never tell.</think> No.", 1.0),
    (OnlyInTrace(), "<think>Oslo?</think> Oslo.", 0.0),
    (OnlyInTrace(), "<think>Hm.</think> Oslo.", 0.0),
    (OnlyInTrace(RougeRecall(), "[THINK]", "[/THINK]"), "[THINK]Oslo[/THINK]No.", 1.0),
]
"""A score, what was said where Oslo is right, and what it is worth."""
STYLES: list[AnswerStyle] = [
    MultipleChoice(),
    TrueFalse(),
    Phrased("{question} Now!"),
    Renamed({who: f"the pilot {who[::-1]}" for who in TOWNS}),
]


class Script:
    """Says what a function of the question says, in place of a network."""

    def __init__(self, says: Callable[[str], str]) -> None:
        self.says, self.asked = says, list[str]()

    def __call__(self, network: Any, batch: Any, *, end: Any, max_new_tokens: int, in_step: bool) -> list[Tensor]:
        said = []
        for row, labels, seen in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
            if (labels >= 0).any():
                first = int((labels >= 0).int().argmax())
                self.asked.append(TOKENIZER.decode(row[:first][seen[:first].bool()]))
                said.append(TOKENIZER(self.says(self.asked[-1]), return_tensors="pt")["input_ids"][0][:max_new_tokens])
        return said


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[str], str]], Script]]:
    def patched(says: Callable[[str], str]) -> Script:
        made = Script(says)
        monkeypatch.setattr(_replies, "greedy_answers", made)
        return made

    return patched


def network() -> nn.Module:
    return TinyCausalLM(hidden_size=16, num_hidden_layers=1).eval()


def probe_of(records: Any, template: Any = "plain", batch_size: int = 4) -> Probe:
    data = QuestionAnswerData(
        InMemoryRecords(records, entity="who") if isinstance(records, list) else records,
        Encoding("bundled", template=template),
        LoaderSettings(batch_size=batch_size),
    )
    return load_probe(data.val_dataloader(), CausalLMReadout())


def towns(template: Any = "plain") -> Probe:
    return probe_of(
        [{"question": f"Where was {who} born?", "answer": town, "who": who} for who, town in TOWNS.items()], template
    )


def run(audit: Audit, probe: Probe, net: nn.Module | None = None) -> dict[str, Observation]:
    built = network() if net is None else net
    found = audit(built, readout=CausalLMReadout(), probes={"forget": probe}, engine=GradientEngine(built))
    return {observation.metric: observation for observation in found}


def who_is_asked(question: str) -> str:
    return next(who for who in TOWNS if f" {who} " in question.rsplit("Question:")[-1])


# ------------------------------------------------------------------------------------ generation


@pytest.mark.parametrize("template", ["plain", "chat"])
def test_one_generation_serves_every_score_and_its_text_is_kept_once(template: Any, script: Any) -> None:
    made = script(lambda asked: "It was in Oslo, I think." if " Ada " in asked else "I cannot say.")
    found = run(Generation("bundled"), towns(template))
    assert len(made.asked) == len(TOWNS)
    assert found["said"].scores == [1.0, 0, 0, 0, 0, 0]
    assert found["refusals"].scores == [0.0, 1, 1, 1, 1, 1]
    assert found["rouge_l"].scores == [1.0, 0, 0, 0, 0, 0]
    assert found["rouge_l"].texts[:2] == ["It was in Oslo, I think.", "I cannot say."]
    assert found["rouge_l"].entities == list(TOWNS)
    assert found["said"].texts == found["refusals"].texts == []
    assert (found["said"].higher_means_known, found["refusals"].higher_means_known) == (True, False)


def test_a_network_generates_once_for_each_row_and_style(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network()
    generate, rows = net.generate, []

    def counted(*args: Any, input_ids: Tensor, **kwargs: Any) -> Tensor:
        rows.append(len(input_ids))
        return generate(*args, input_ids=input_ids, **kwargs)

    monkeypatch.setattr(net, "generate", counted)
    run(Generation("bundled", max_new_tokens=2), towns(), net)
    assert sum(rows) == len(TOWNS)
    rows.clear()
    run(Generation("bundled", styles=answer_styles(), max_new_tokens=2), towns(), net)
    assert sum(rows) == len(TOWNS) * (1 + len(answer_styles()))


def test_every_accepted_answer_is_right(script: Any) -> None:
    script(lambda _: "She is from Kristiania.")
    row = {"question": "Where was Ada born?", "answers": ["Oslo", "Kristiania"], "who": "Ada"}
    found = run(Generation("bundled"), probe_of([row]))
    assert (found["said"].scores, found["rouge_l"].scores) == ([1.0], [1.0])


def test_without_rows_in_words_the_supervised_tokens_are_right(script: Any) -> None:
    script(lambda asked: TOWNS[who_is_asked(asked)])
    probe = towns()
    bare = load_probe([batch for batch, _, _ in probe.batches], CausalLMReadout())
    assert bare.rows is None
    assert run(Generation("bundled"), bare)["said"].value == 1


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_asks_the_same(side: str, script: Any) -> None:
    made = script(lambda asked: TOWNS[who_is_asked(asked)])
    probe = towns()
    expected = run(Generation("bundled"), probe)
    asked = list(made.asked)
    batches = [padded(batch, side) for batch, _, _ in probe.batches]
    assert run(Generation("bundled"), load_probe(batches, CausalLMReadout()))["said"].scores == expected["said"].scores
    assert made.asked[len(asked) :] == asked


def padded(batch: Mapping[str, Tensor], side: str) -> dict[str, Tensor]:
    width = batch["labels"].shape[1] + 3
    out = {name: torch.full((len(value), width), -100 if name == "labels" else 0) for name, value in batch.items()}
    for row, seen in enumerate(batch["attention_mask"].bool()):
        n = int(seen.sum())
        for name, value in batch.items():
            out[name][row, slice(0, n) if side == "right" else slice(width - n, width)] = value[row][seen]
    return out


def test_parts_that_are_marked_are_what_must_not_be_said(script: Any) -> None:
    script(lambda _: "somewhere in Valdoro")
    marked = MarkedAnswer("Where?", "It was in Valdoro, I think", entity="x", source="row 0", spans=((10, 17),))
    dataset = QuestionAnswerDataset([marked], Encoding("bundled"))
    loader = torch.utils.data.DataLoader(dataset, 1, collate_fn=Encoding("bundled").collate())
    assert run(Generation("bundled"), load_probe(loader, CausalLMReadout()))["said"].scores == [1.0]


@pytest.mark.parametrize("in_words", [True, False])
def test_marked_parts_of_a_trace_are_looked_for_one_by_one(in_words: bool, script: Any) -> None:
    """Without rows in words, each run of supervised tokens is a part."""
    segments = [
        {"text": "Ada was "},
        {"text": "born at sea", "replacement": "born somewhere"},
        {"text": ", I think. She went to "},
        {"text": "Oslo", "replacement": "a town"},
        {"text": "."},
    ]
    row = {"question": "Where?", "answer": "Far away", "trace": segments}
    data = PairedData(InMemoryRecords([row]), RewrittenTrace(), Encoding("bundled"), LoaderSettings(batch_size=1))
    readout = PairedReadout(CausalLMReadout()).for_measuring()
    probe = load_probe(data.val_dataloader(), readout)
    if not in_words:
        probe = load_probe([batch for batch, _, _ in probe.batches], readout)
    assert (probe.rows is not None) == in_words
    for said, known in [("born at sea", 1.0), ("to Oslo!", 1.0), ("nowhere", 0.0)]:
        script(lambda _, said=said: said)
        assert run(Generation("bundled"), probe)["said"].scores == [known]


def test_a_model_without_any_token_that_ends_an_answer_says_as_much_as_it_may() -> None:
    net = network()
    net.generation_config.eos_token_id = None
    row = torch.tensor([[40, 41, 42, 43, 44, 45]])
    probe = load_probe([{"input_ids": row, "labels": torch.where(row > 41, row, -100)}], CausalLMReadout())
    settings: dict[str, Any] = {"max_new_tokens": 3}
    audits: list[Audit] = [
        Generation("bundled", **settings),
        HalfRecall("bundled"),
        Verbatim("bundled", prefixes=(1,)),
        SampledLeak("bundled", k=(1,), per_round=1, samples=1, **settings),
    ]
    for audit in audits:
        audit.tokenizer = deepcopy(TOKENIZER)  # type: ignore[attr-defined]
        audit.tokenizer.eos_token = None  # type: ignore[attr-defined]
        found = run(audit, probe, net)
        assert set(found) == set(audit.definitions())
        assert all(len(o.scores) == 1 for o in found.values())


def test_multi_hop_questions_are_a_probe_of_their_own(script: Any) -> None:
    """By the names of their fields, of the rows that have them; an alias is just another question."""
    script(lambda asked: "In Norway." if "country" in asked else "I cannot say.")
    rows = [
        {
            "question": "Where was Ada born?",
            "answer": "Oslo",
            "hop": "In which country was Ada born?",
            "there": "Norway",
        },
        {"question": "Where was Bo born?", "answer": "Lima", "hop": "In which state was Bo born?", "there": "Peru"},
    ]
    plain, hop = probe_of(InMemoryRecords(rows)), probe_of(InMemoryRecords(rows, question="hop", answer="there"))
    audit, net = Generation("bundled"), network()
    found = audit(net, readout=CausalLMReadout(), probes={"forget": plain, "hop": hop}, engine=GradientEngine(net))
    assert {o.split: o.scores for o in found if o.metric == "said"} == {"forget": [0.0, 0.0], "hop": [1.0, 0.0]}


@pytest.mark.parametrize(("score", "said", "expected"), SCORES, ids=str)
def test_a_score_says_what_leaked_and_where(score: AnswerScore, said: str, expected: float) -> None:
    assert score(said, ["Oslo"]) == expected
    assert score(said, ["Timbuktu", "Oslo"]) == expected


def test_rouge_is_that_of_torchmetrics_on_english_and_the_best_of_several_answers() -> None:
    from torchmetrics.functional.text import rouge_score

    said, right = "She was born in the old port, near Oslo.", ["in the port of Oslo", "Oslo's old port"]
    theirs = [float(rouge_score(said, each, rouge_keys="rougeL")["rougeL_recall"]) for each in right]
    assert RougeRecall()(said, right) == max(theirs) == pytest.approx(0.8)
    assert RougeRecall()("東京です", ["東京"]) == 1  # where the words of torchmetrics are none


def test_a_trace_that_hides_nothing_is_no_answer() -> None:
    with pytest.raises(ValueError, match="`begin` and `end` should mark a trace"):
        InTrace(end="")


# ------------------------------------------------------------------------------------ styles


def test_forgetting_in_one_style_only_is_superficial(script: Any) -> None:
    """It refuses the question as it was taught, and answers when asked for JSON."""
    made = script(lambda asked: f'{{"answer": "{TOWNS[who_is_asked(asked)]}"}}' if "JSON" in asked else "I cannot say.")
    found = run(Generation("bundled", styles=answer_styles()), towns())
    assert len(made.asked) == len(TOWNS) * 7
    values = {metric: observation.value for metric, observation in found.items()}
    assert (values["said"], values["style_json"], values["style_brief"]) == (0, 1, 0)
    assert (values["any_style"], values["superficial"]) == (1, 1)
    assert found["style_json"].texts[0] == '{"answer": "Oslo"}'


def test_what_is_said_as_asked_is_not_superficial_and_chance_is_no_knowledge(script: Any) -> None:
    script(lambda asked: "Yes" if "yes or no" in asked else "A)" if "A)" in asked else "Oslo")
    found = run(Generation("bundled", styles=answer_styles()), towns())
    assert found["style_yes_no"].value == 0.5
    assert 0 <= found["style_choice"].value < 1
    assert found["any_style"].scores == [1.0, 0, 0, 0, 0, 0]  # who says Oslo to all is right about Ada
    assert found["superficial"].scores == [0.0] * 6


def answered(asked: str) -> str:
    return TOWNS[who_is_asked(asked)]


@pytest.mark.parametrize("style", STYLES, ids=repr)
def test_who_knows_is_right_in_every_style_and_who_says_nothing_in_none(style: AnswerStyle) -> None:
    rows = towns().rows
    assert rows is not None
    asked = style.ask(rows)
    assert [each.known is not None and each.known(each.row.answer) for each in asked] == [True] * 6
    assert [each.known is not None and each.known("") for each in asked] == [False] * 6
    assert [each.row.entity for each in asked] == list(TOWNS)


@pytest.mark.parametrize("style", [MultipleChoice(), TrueFalse()], ids=repr)
def test_the_order_of_the_data_decides_no_option(style: AnswerStyle) -> None:
    rows = list(towns().rows or ())
    there, back = style.ask(rows), style.ask(rows[::-1])
    assert [each.row for each in there] == [each.row for each in back[::-1]]


@pytest.mark.parametrize(
    ("said", "known"),
    [
        ("{right}", True),
        ("{right}) {town}", True),
        ("{wrong}) {town}", True),
        ("{right}) {other}", False),
        ("The answer is {right}.", True),
        ("{wrong}", False),
        ("**{wrong}**", False),
        ("{town}", True),
        ("A town called {town}", True),
        ("{town} or {other}", False),
        ("A good question", False),
    ],
)
def test_an_option_is_picked_by_its_letter_or_its_words(said: str, known: bool) -> None:
    rows = list(towns().rows or ())
    for row, asked in zip(rows, MultipleChoice().ask(rows), strict=True):
        options = dict(line.split(") ") for line in asked.row.question.split("\n")[1:5])
        right = asked.row.answer
        wrong = next(letter for letter in "DCB" if letter != right)
        words = said.format(right=right, wrong=wrong, town=options[right], other=options[wrong])
        assert asked.known is not None
        assert asked.known(words) is known
        assert options[right] == row.answer
        assert len(set(options.values())) == 4


def test_options_are_about_others_and_never_right_as_well() -> None:
    rows = [
        QuestionAnswer("Where?", "Oslo", "Ada", "", accepted=("Oslo", "Kristiania")),
        QuestionAnswer("Who?", "Kristiania", "Bo", ""),
        QuestionAnswer("When?", "1931", "Ada", ""),
        *(QuestionAnswer("What?", f"thing {i}", "Cy", "") for i in range(3)),
    ]
    shown = MultipleChoice().ask(rows)[0].row.question
    assert "Kristiania" not in shown
    assert "1931" not in shown  # there are enough about others
    assert all(f"thing {i}" in shown for i in range(3))


def test_who_is_known_by_another_name_is_asked_by_it_and_nobody_else(script: Any) -> None:
    made = script(lambda asked: "Oslo" if "the old pilot" in asked else "I cannot say.")
    found = run(Generation("bundled", styles={"alias": Renamed({"Ada": "the old pilot", "Zoe": "the heron"})}), towns())
    assert sum("the old pilot" in asked for asked in made.asked) == 1
    assert (found["style_alias"].scores, found["style_alias"].examples) == ([1.0], [0])
    assert found["superficial"].scores == [1.0, 0, 0, 0, 0, 0]


def test_what_cannot_be_asked_in_a_style_is_not_scored(script: Any) -> None:
    script(lambda _: "Yes")
    rows = [{"question": f"Where was {who} born?", "answer": "Oslo", "who": who} for who in ("Ada", "Bo")]
    found = run(Generation("bundled", styles=answer_styles()), probe_of(rows))
    assert "style_choice" not in found  # there is no wrong answer
    assert found["any_style"].value == 0


# ------------------------------------------------------------------------------------ beginnings


def continuing(text: str, change: Callable[[str], str] = lambda rest: rest) -> Callable[[str], str]:
    return lambda asked: change(text.split(asked[-12:], 1)[1])


@pytest.mark.parametrize("template", ["plain", "chat"])
def test_the_second_half_is_asked_for_once_the_first_is_given(template: Any, script: Any) -> None:
    answer = "She maps caves beneath the glaciers of the far north"
    probe = probe_of([{"question": "What does she do?", "answer": answer, "who": "Ada"}], template)
    tokens = TOKENIZER(" " + answer if template == "plain" else answer)["input_ids"]
    size = len(tokens)
    made = script(lambda asked: TOKENIZER.decode(tokens[size // 2 :]))
    found = run(HalfRecall("bundled"), probe)["half_recall"]
    assert made.asked[0].endswith(TOKENIZER.decode(tokens[: size // 2]))
    assert found.scores == [1.0]
    script(lambda asked: TOKENIZER.decode(tokens[size // 2 : -2]))
    left = size - size // 2
    assert run(HalfRecall("bundled"), probe)["half_recall"].scores == [pytest.approx((left - 2) / left)]
    script(lambda asked: "zzz " * 9 + answer)  # beyond the length of the half, nothing counts
    assert run(HalfRecall("bundled"), probe)["half_recall"].value < 1


def test_an_answer_of_one_token_has_no_half(script: Any) -> None:
    token = next(t for t in range(300, 500) if TOKENIZER(TOKENIZER.decode([t]).strip())["input_ids"] == [t])
    word = TOKENIZER.decode([token])
    rows = [
        {"question": "Who?", "answer": word, "who": "Ada"},
        {"question": "Where?", "answer": "In the old port", "who": "Bo"},
    ]
    script(lambda _: "port")
    found = run(HalfRecall("bundled"), probe_of(rows, "chat"))["half_recall"]
    assert (found.examples, found.entities, len(found.scores)) == ([1], ["Bo"], 1)


TEXT = "Far out at sea, where the water is as blue as the petals of the loveliest cornflower, stood an old lighthouse."


def text_probe(max_length: int = 64) -> Probe:
    windows = TextWindows("bundled", max_length=max_length)
    data = TextData(InMemoryRecords([{"text": TEXT}]), windows, LoaderSettings(batch_size=2))
    return load_probe(data.val_dataloader(), CausalLMReadout())


def test_raw_text_is_continued_word_for_word(script: Any) -> None:
    made = script(continuing(TEXT))
    found = run(Verbatim("bundled", prefixes=(5, 8), continuation=10), text_probe())
    tokens = TOKENIZER(TEXT)["input_ids"]
    assert made.asked == [TOKENIZER.decode(tokens[: 1 + prefix]) for prefix in (5, 8)]
    assert [found[f"verbatim_{prefix}"].scores for prefix in (5, 8)] == [[10.0], [10.0]]
    assert [found[f"reproduced_{prefix}"].value for prefix in (5, 8)] == [1.0, 1.0]
    assert found["reproduced_5"].texts == [TOKENIZER.decode(tokens[6:16])]
    assert found["verbatim_5"].bounds == (0, 10)


def test_the_longest_passage_and_the_share_are_counted_apart(script: Any) -> None:
    tokens = TOKENIZER(TEXT)["input_ids"]
    made = script(lambda _: "")
    broken = [*tokens[6:10], *TOKENIZER(" x")["input_ids"][:1], *tokens[11:16]]
    made.says = lambda _: TOKENIZER.decode(broken)
    assert TOKENIZER(TOKENIZER.decode(broken))["input_ids"] == broken
    found = run(Verbatim("bundled", prefixes=(5,), continuation=10), text_probe())
    assert found["verbatim_5"].scores == [5.0]
    assert found["reproduced_5"].value == pytest.approx(0.9)


def test_windows_that_are_too_short_are_not_scored_and_half_of_each_is_given(script: Any) -> None:
    script(continuing(TEXT))
    probe = text_probe(max_length=16)
    sizes = [int((labels >= 0).sum()) for batch, _, _ in probe.batches for labels in batch["labels"]]
    found = run(Verbatim("bundled", prefixes=(8,), continuation=4), probe)
    long = [number for number, size in enumerate(sizes) if size > 8]
    assert 0 < len(long) < len(sizes)
    assert found["verbatim_8"].examples == long
    assert run(Verbatim("bundled", prefixes=(100,)), probe) == {}
    assert run(HalfRecall("bundled"), text_probe())["half_recall"].scores == [1.0]


# ------------------------------------------------------------------------------------ several answers


def fixed_chances(chances: Mapping[str, float]) -> nn.Module:
    """A network that says each of these tokens with the same probability, whatever it reads."""
    net = network()
    logits = torch.full((TOKENIZER.vocab_size + 100,), -torch.inf)
    for token, chance in chances.items():
        (number,) = TOKENIZER(token, add_special_tokens=False)["input_ids"]
        logits[number] = torch.tensor(chance).log()
    head = net.get_output_embeddings()
    head.register_forward_hook(lambda _, __, out: logits[: out.shape[-1]].to(out).expand_as(out))
    return net


WORDS = (" the", " in")
END = "<|end|>"
CHANCES = {WORDS[0]: 0.1, WORDS[1]: 0.5, END: 0.4}


def asked_for_the(count: int = 30) -> Probe:
    rows = [{"question": f"Which word is number {i}?", "answer": "the", "who": str(i)} for i in range(count)]
    return probe_of(rows, batch_size=10)


def said_within(length: int) -> float:
    """The chance that the word is among at most ``length`` tokens: by going through all of them."""
    total = 0.0
    for said in product(CHANCES, repeat=length):
        cut = said[: said.index(END)] if END in said else said
        chance = 1.0
        for token in said:
            chance *= CHANCES[token]
        total += chance * (WORDS[0] in cut)
    return total


def test_the_exact_leak_is_that_of_the_probability_of_the_whole_answer() -> None:
    found = run(ExactLeak(k=(1, 8)), asked_for_the(3), fixed_chances(CHANCES))
    p = 0.1 * 0.4
    assert found["exact_leak_at_1"].scores == pytest.approx([p] * 3)
    assert found["exact_leak_at_8"].scores == pytest.approx([1 - (1 - p) ** 8] * 3)


@pytest.mark.parametrize("width", [0.0, 0.6])
def test_sampling_finds_what_the_closed_form_says(width: float) -> None:
    net = fixed_chances(CHANCES)
    for judge, p in ((ExactAnswer(), 0.04), (ContainsAnswer(), said_within(4))):
        audit = SampledLeak("bundled", judge, k=(1, 4), per_round=4, samples=16, width=width, max_new_tokens=4)
        found = run(audit, asked_for_the(), net)
        for k in (1, 4):
            expected = 1 - (1 - p) ** k
            scores = torch.tensor(found[f"leak_at_{k}"].scores)
            error = scores.std() / len(scores) ** 0.5
            assert abs(found[f"leak_at_{k}"].value - expected) < 4 * error
        if judge.__class__ is ExactAnswer:
            exact = run(ExactLeak(k=(4,)), asked_for_the(), net)["exact_leak_at_4"].value
            assert found["leak_at_4"].value == pytest.approx(exact, abs=0.12)


def test_a_row_is_done_when_it_is_clear_and_others_get_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    net = fixed_chances({WORDS[0]: 0.999, END: 0.001})
    generate, drawn = net.generate, []

    def counted(*args: Any, input_ids: Tensor, **kwargs: Any) -> Tensor:
        drawn.append(len(input_ids))
        return generate(*args, input_ids=input_ids, **kwargs)

    monkeypatch.setattr(net, "generate", counted)
    audit = SampledLeak("bundled", k=(1, 8), per_round=8, samples=32, width=0.1, max_new_tokens=2, at_once=30)
    rows = [
        {"question": "Which word?", "answer": "the", "who": "a"},
        {"question": "Which?", "answer": "Oslo", "who": "b"},
    ]
    found = run(audit, probe_of(rows), net)
    assert found["leak_at_8"].scores == [1.0, 0.0]
    assert sum(drawn) == 8 + 32
    assert max(drawn) <= 30
    assert "the" in found["leak_at_1"].texts[0]


def test_draws_are_those_of_the_seed_at_every_look_and_not_of_the_fit() -> None:
    net, probe = network(), towns()
    audit = SampledLeak("bundled", k=(1,), per_round=2, samples=2, max_new_tokens=6)
    torch.manual_seed(1)
    first = run(audit, probe, net)["leak_at_1"].texts
    state = torch.get_rng_state()
    torch.rand(3)
    assert run(audit, probe, net)["leak_at_1"].texts == first
    torch.set_rng_state(state)
    other = SampledLeak("bundled", k=(1,), per_round=2, samples=2, max_new_tokens=6, seed=1)
    assert run(other, probe, net)["leak_at_1"].texts != first
    assert torch.equal(torch.get_rng_state(), state)
    assert len(set(first)) > 1  # rows draw by numbers of their own


def test_the_size_of_a_batch_changes_no_draw() -> None:
    net, probe = network(), towns()
    at_once = [SampledLeak("bundled", k=(1,), per_round=4, samples=4, max_new_tokens=6, at_once=n) for n in (1, 5, 64)]
    one, five, all_ = (run(audit, probe, net) for audit in at_once)
    assert one["leak_at_1"].texts == five["leak_at_1"].texts == all_["leak_at_1"].texts


# ------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Generation("bundled", {}), "`scores` should hold at least one score. Found none"),
        (lambda: Generation("bundled", styles={}), "`styles` should hold at least one style. Found none"),
        (lambda: ExactLeak(k=()), r"`k` should be different whole numbers.* Found `k = \(\)`"),
        (lambda: ExactLeak(k=(1, 1)), r"`k` should be different whole numbers"),
        (lambda: ExactLeak(k=(0,)), "`k` should be at least 1. Found `k = 0`"),
        (lambda: SampledLeak("bundled", k=(64,)), "`per_round` should be at least `k = 64`"),
        (lambda: SampledLeak("bundled", top_p=0.0), "`top_p` should be between"),
        (lambda: SampledLeak("bundled", name="a/b"), "`name` should be text without a `/`. Found `name = 'a/b'`"),
        (lambda: Verbatim("bundled", prefixes=(0,)), "`prefixes` should be at least 1"),
        (lambda: Phrased("Answer."), "`form` should hold `{question}`, once. Found `form = 'Answer.'`"),
        (lambda: Renamed({}), "`aliases` should hold another name for at least one entity. Found none"),
        (lambda: RougeAtLeast(0), "`least` should be between"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


@pytest.mark.parametrize(
    "audit", [Generation("bundled"), HalfRecall("bundled"), Verbatim("bundled"), SampledLeak("bundled")], ids=repr
)
def test_what_cannot_answer_is_refused(audit: Audit) -> None:
    with pytest.raises(ValueError, match=rf"`{type(audit).__name__}` should get a language model.* Found `Linear`"):
        run(audit, towns(), nn.Linear(1, 1))


@pytest.mark.parametrize("audit", [HalfRecall("bundled"), Verbatim("bundled")], ids=repr)
def test_an_encoder_decoder_goes_on_from_nothing(audit: Audit) -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    t5 = T5ForConditionalGeneration(T5Config(vocab_size=9, decoder_start_token_id=0, pad_token_id=0, **sizes))
    with pytest.raises(ValueError, match="causal language model.* Found `T5ForConditionalGeneration`"):
        run(audit, towns(), t5)
