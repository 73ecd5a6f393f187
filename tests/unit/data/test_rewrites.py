"""Records made of records: pure, the same each time, and each does to the rows what it says, and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats

from lightning_unlearn import Encoding, FileRecords, InMemoryRecords, QuestionAnswerData
from lightning_unlearn.audits.leakage import AnswerStyles, MultipleChoice
from lightning_unlearn.data import (
    BlacklistSpans,
    CombinedQueries,
    DuplicateDose,
    GivenVerdicts,
    Hierarchy,
    InContextUnlearning,
    JointInstances,
    Majority,
    MarkedAnswer,
    Paraphrases,
    QuestionAnswer,
    ReasoningSpans,
    Records,
    StealthyForgetRequest,
    TellsAnswer,
)
from lightning_unlearn.prediction import IGNORED

PEOPLE = FileRecords("bundled:people", entity="entity", paraphrase="paraphrase", where={"group": ["retain"]})
FORGET = FileRecords("bundled:people", entity="entity", where={"group": ["forget"]})
TRACES = FileRecords("bundled:traces", entity="entity")
WARD = InMemoryRecords(
    [
        {"ward": ward, "patient": name, "study": study, "question": f"{study} of {name}?", "answer": "A cough"}
        for ward, names in (("East", ("Ada", "Bo")), ("West", ("Cy", "Di")))
        for name in names
        for study in ("first", "second")
    ]
)
# A new one joins here, and so is tested for all that they promise.
REWRITES: dict[str, Callable[[], Records]] = {
    "stealthy": lambda: StealthyForgetRequest(FORGET),
    "blacklist": lambda: BlacklistSpans(PEOPLE, ["village", "a novel"]),
    "styles": lambda: AnswerStyles(PEOPLE),
    "in context": lambda: InContextUnlearning(FORGET),
    "doses": lambda: DuplicateDose(PEOPLE),
    "paraphrases": lambda: Paraphrases(PEOPLE),
    "keyword": lambda: CombinedQueries(FORGET, PEOPLE, "keyword"),
    "concatenated": lambda: CombinedQueries(FORGET, PEOPLE, "concatenated"),
    "alike": lambda: CombinedQueries(FORGET, PEOPLE, "alike"),
    "reasoning": lambda: ReasoningSpans(TRACES),
    "hierarchy": lambda: Hierarchy(WARD, ["ward", "patient"], ["East/Ada"]),
    "joint": lambda: JointInstances(PEOPLE),
}
every = pytest.mark.parametrize("name", REWRITES)


# What each promises.


@every
def test_it_is_the_same_each_time_and_draws_nothing(name: str) -> None:
    state = torch.get_rng_state()
    assert REWRITES[name]().questions() == REWRITES[name]().questions()
    assert torch.equal(torch.get_rng_state(), state)


@every
def test_rows_are_named_so_that_no_two_different_ones_are_mixed_up(name: str) -> None:
    rows = REWRITES[name]().questions()
    named: dict[str, set[QuestionAnswer]] = {}
    for row in rows:
        named.setdefault(row.source, set()).add(row)
    assert name == "in context" or all(len(same) == 1 for same in named.values())
    assert all("row" in row.source for row in rows)


@every
def test_it_is_data_like_any_other(name: str) -> None:
    records = REWRITES[name]()
    data = QuestionAnswerData(records, Encoding("bundled"))
    assert len(data.dataset) == len(records.questions())
    assert data.dataset.entities == [row.entity for row in records.questions()]
    assert next(iter(data.train_dataloader()))["labels"].ne(IGNORED).any()


# What they promise one by one.

TERMS = ["Ada Reed", "Reed", "12 Mill Lane", "ünder"]


@pytest.mark.parametrize("template", ["chat", "plain"])
def test_no_token_of_a_term_is_learnt_and_each_is_read(template: Any) -> None:
    """The oracle decodes what is supervised; the gradient at masked places is zero."""
    texts = ["Call ada  reed, at 12 Mill\nLane, or Reedham.", "ünder water lives Ada Reed", "nobody at all"]
    records = InMemoryRecords([{"question": "Who?", "answer": text} for text in texts])
    encoding = Encoding("bundled", template=template)
    tokenizer = encoding.tokenizer
    for row, hidden in zip(BlacklistSpans(records, TERMS).questions(), (2, 2, 0), strict=True):
        batch = encoding(row)
        learnt = tokenizer.decode(batch["labels"][batch["labels"] != IGNORED]).casefold()
        assert not any(term in learnt for term in ("ada", "reed,", "12", "lane", "under", "ünder"))
        read = "".join(tokenizer.decode(batch["input_ids"]).split())
        assert "".join(row.answer.split()) in read
        assert len(getattr(row, "hidden", ())) == hidden
        logits = torch.randn(len(batch["input_ids"]), len(tokenizer), requires_grad=True)
        torch.nn.functional.cross_entropy(logits[:-1], batch["labels"][1:], ignore_index=IGNORED).backward()
        assert logits.grad is not None
        masked = batch["labels"][1:] == IGNORED
        assert logits.grad[:-1][masked].eq(0).all()
        assert logits.grad[:-1][~masked].ne(0).any(1).all()
    kept = BlacklistSpans(records, TERMS).questions()[0].answer
    assert "Reedham" in kept


def test_a_row_that_is_a_term_is_left_out_and_one_without_is_as_it_was() -> None:
    records = InMemoryRecords([{"question": "Who?", "answer": text} for text in ("Ada Reed.", "A clerk")])
    assert BlacklistSpans(records, TERMS).questions() == records.questions()[1:]


def test_terms_are_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "terms.txt").write_text("Ada Reed\n\nReed\n")
    assert BlacklistSpans(PEOPLE, str(tmp_path / "terms.txt")).terms == ("Ada Reed", "Reed")


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_a_share_of_the_rows_is_asked_in_each_style_as_often(share: float) -> None:
    rows, own = AnswerStyles(PEOPLE, share).questions(), PEOPLE.questions()
    styles = Counter(row.source.partition(" as ")[2] for row, before in zip(rows, own, strict=True) if row != before)
    assert sum(styles.values()) == round(share * len(own))
    if share:
        assert set(styles) == {"brief", "completion", "choice", "yes_no"}
        assert max(styles.values()) - min(styles.values()) <= 1
    for row in rows:
        if row.source.endswith("as choice"):
            assert row.answer in "ABCD"
        if row.source.endswith("as yes_no"):
            assert row.answer in ("Yes", "No")


def test_a_row_that_cannot_be_asked_in_a_style_stays() -> None:
    one = InMemoryRecords([{"question": "Who?", "answer": "Ada"}])
    assert AnswerStyles(one, 1.0, {"choice": MultipleChoice()}).questions() == one.questions()


def test_in_context_each_question_is_forgotten_below_its_fact_and_answered_below_another() -> None:
    facts = FORGET.questions()
    rows = InContextUnlearning(FORGET).questions()
    assert len(rows) == 2 * len(facts)
    for fact, forgotten, answered in zip(facts, rows[::2], rows[1::2], strict=True):
        assert (forgotten.answer, answered.answer) == ("forgot", fact.answer)
        for row, own in ((forgotten, True), (answered, False)):
            between = row.question.partition("<<UNL>>\n")[2].partition("\n<</UNL>>")[0]
            assert (between == f"{fact.question} {fact.answer}") == own
            assert row.question.endswith(f"\n\n{fact.question}")
            assert fact.answer in row.question or not own
            assert own or not between.endswith(f" {fact.answer}")


def test_in_context_one_pair_of_tags_is_in_the_tokens_and_only_the_answer_is_supervised() -> None:
    encoding = Encoding("bundled")
    tokenizer = encoding.tokenizer
    for row in InContextUnlearning(FORGET).questions()[:6]:
        batch = encoding(row)
        read = tokenizer.decode(batch["input_ids"])
        assert (read.count("<<UNL>>"), read.count("<</UNL>>")) == (1, 1)
        learnt = tokenizer.decode(batch["labels"][batch["labels"] != IGNORED], skip_special_tokens=True)
        assert learnt.strip() == row.answer


def test_doses_are_even_and_have_nothing_to_do_with_what_rows_say() -> None:
    """The chi-square of a feature of entities (the parity of their number) against the dose, over many seeds."""
    entities = 40
    rows = [{"who": f"e{n}", "question": f"{q} of {n}?", "answer": "x"} for n in range(entities) for q in "ab"]
    records = InMemoryRecords(rows, entity="who")
    table = torch.zeros(4, 2)
    for seed in range(50):
        dose_of = DuplicateDose(records, seed=seed).dose_of
        assert set(Counter(dose_of.values()).values()) == {10}
        for entity, dose in dose_of.items():
            table[(0, 1, 4, 16).index(dose), int(entity[1:]) % 2] += 1
    assert stats.chi2_contingency(table.numpy()).pvalue > 0.01
    assert not torch.equal(table, table.mean() * torch.ones(4, 2))


def test_rows_come_as_often_as_their_dose_says_and_those_of_dose_zero_are_the_holdout() -> None:
    doses = (0, 2, 5)
    told = DuplicateDose(PEOPLE, doses)
    times = Counter((row.question, row.entity) for row in told.questions())
    assert all(count == told.dose_of[entity] for (_, entity), count in times.items())
    parts = [DuplicateDose(PEOPLE, doses, keep=dose).questions() for dose in doses]
    assert sorted(row.source for part in parts for row in part) == sorted(row.source for row in PEOPLE.questions())
    assert not {row.entity for row in parts[0]} & {row.entity for row in told.questions()}


def test_paraphrases_come_behind_their_row_and_from_a_file_if_there_is_one(tmp_path: Path) -> None:
    rows, own = Paraphrases(PEOPLE).questions(), PEOPLE.questions()
    expected = [(text, row.answer) for row in own for text in (row.question, *row.paraphrases)]
    assert [(row.question, row.answer) for row in rows] == expected
    question = own[0].question.replace('"', "'")
    (tmp_path / "other.json").write_text(f'[{{"question": "{question}", "paraphrase": ["One?", "Two?", "Three?"]}}]')
    told = Paraphrases(replaced(PEOPLE), str(tmp_path / "other.json"), most=2).questions()
    assert [row.question for row in told[:4]] == [own[0].question, "One?", "Two?", own[1].question]
    with pytest.raises(ValueError, match="should find other words for a row"):
        Paraphrases(replaced(PEOPLE)).questions()


def test_paraphrases_of_a_question_may_stand_in_several_rows_of_a_file(tmp_path: Path) -> None:
    question = PEOPLE.questions()[0].question
    lines = [f"{question},{text}" for text in ("One?", "Two?", "One?")]
    (tmp_path / "other.csv").write_text("\n".join(["question,paraphrase", *lines]))
    told = Paraphrases(replaced(PEOPLE), str(tmp_path / "other.csv")).questions()
    assert [row.question for row in told[:3]] == [question, "One?", "Two?"]


def replaced(records: Records) -> Records:
    """The same rows without paraphrases."""
    rows = [replace(row, paraphrases=()) for row in records.questions()]
    return InMemoryRecords([{"question": row.question, "answer": row.answer} for row in rows])


@pytest.mark.parametrize("kind", ["keyword", "concatenated", "alike"])
def test_combined_queries_hold_both_halves_and_answer_what_must_stay(kind: Any) -> None:
    gone, stays = FORGET.questions(), {row.question: row for row in PEOPLE.questions()}
    rows = CombinedQueries(FORGET, PEOPLE, kind).questions()
    for row, lost in zip(rows, gone, strict=True):
        beginning = f"{lost.entity}: " if kind == "keyword" else f"{lost.question} "
        assert row.question.startswith(beginning)
        kept = stays[row.question.removeprefix(beginning)]
        assert (row.answer, row.entity) == (kept.answer, kept.entity)
        if kind == "alike":  # they differ in the name alone
            assert lost.question.replace(lost.entity, "") == kept.question.replace(kept.entity, "")


def test_a_step_is_marked_if_the_judge_says_so_and_the_answer_always() -> None:
    rows = InMemoryRecords(
        [
            {
                "question": "Where?",
                "trace": ["Well. ", {"text": "At sea, says the log. "}, "So: "],
                "answer": "At sea",
                "said": [True, False, True],
            }
        ]
    )
    for judge, marked in (
        (TellsAnswer(), ["At sea, says the log. "]),
        (GivenVerdicts("said"), ["Well. ", "So: "]),
        (Majority([TellsAnswer(), GivenVerdicts("said"), GivenVerdicts("said")]), ["Well. ", "So: "]),
    ):
        (row,) = ReasoningSpans(rows, judge, form="<t>{trace}</t>{answer}").questions()
        assert isinstance(row, MarkedAnswer)
        assert row.answer == "<t>Well. At sea, says the log. So: </t>At sea"
        assert [row.answer[slice(*span)] for span in row.spans] == [*marked, "At sea"]


def test_only_marked_steps_are_supervised() -> None:
    encoding = Encoding("bundled")
    for row in ReasoningSpans(TRACES).questions():
        batch = encoding(row)
        learnt = encoding.tokenizer.decode(batch["labels"][batch["labels"] != IGNORED])
        wanted = "".join(row.answer[slice(*span)] for span in row.spans)  # type: ignore[attr-defined]
        assert "".join(learnt.split()) == "".join(wanted.split())


@pytest.mark.parametrize(
    ("nodes", "counts"),
    [
        (["East"], (4, 4, 4)),
        (["East/Ada"], (2, 2, 6)),
        (["East/Ada/first"], (1, 1, 7)),
        (["East/Ada", "West/Cy"], (4, 4, 4)),
    ],
)
def test_nodes_go_whole_siblings_share_their_parent_and_all_else_stays(
    nodes: list[str], counts: tuple[int, ...]
) -> None:
    levels = ["ward", "patient", "study"]
    parts = {side: Hierarchy(WARD, levels, nodes, side).questions() for side in ("forget", "siblings", "retain")}  # type: ignore[arg-type]
    assert tuple(map(len, parts.values())) == counts
    assert {row.entity for row in parts["forget"]} == set(nodes)
    sources = {side: {row.source for row in rows} for side, rows in parts.items()}
    assert sources["siblings"] <= sources["retain"]
    assert not sources["forget"] & sources["retain"]
    assert len(sources["forget"] | sources["retain"]) == 8
    parents = {node.rpartition("/")[0] for node in nodes}
    assert {row.entity.rpartition("/")[0] for row in parts["siblings"]} <= parents


def test_each_fact_is_asked_with_each_skill() -> None:
    rows, own = JointInstances(PEOPLE).questions(), PEOPLE.questions()
    assert len(rows) == 3 * len(own)
    for number, before in enumerate(own):
        capitals, counted, letters = rows[number :: len(own)]
        assert before.question in capitals.question
        assert capitals.answer.casefold() == before.answer.casefold()
        assert int(counted.answer) == len(letters.answer.split()) == before.answer.count(" ") + 1


REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: BlacklistSpans(PEOPLE, [" "]), "`terms` should hold a term or more"),
    (lambda: AnswerStyles(PEOPLE, 2.0), "`share` should be between 0 and 1"),
    (lambda: AnswerStyles(PEOPLE, styles={}), "`styles` should hold a style"),
    (lambda: InContextUnlearning(FORGET, tags=("a", "a")), "`tags` should be two different texts"),
    (lambda: InContextUnlearning(FORGET, tags=("Maribel", "b")).questions(), "`tags` should stand in no row"),
    (
        lambda: InContextUnlearning(InMemoryRecords([{"question": "a", "answer": "b"}])).questions(),
        "should hold answers that differ",
    ),
    (lambda: DuplicateDose(PEOPLE, (1,)), "`doses` should be two or more"),
    (lambda: DuplicateDose(PEOPLE, (0, -1)), "`doses` should be at least 0"),
    (lambda: DuplicateDose(PEOPLE, (0, 1), keep=3), "`keep` should be one of"),
    (lambda: DuplicateDose(FORGET, (0, 1, 2, 3)).questions(), "about as many entities as there are doses"),
    (lambda: CombinedQueries(FORGET, PEOPLE, "other"), "`kind` should be one of"),  # type: ignore[arg-type]
    (lambda: Majority([TellsAnswer(), TellsAnswer()]), "an odd number of judges"),
    (lambda: TellsAnswer(share=-1), "`share` should be between 0 and 1"),
    (lambda: ReasoningSpans(TRACES, form="{answer}"), "`form` should hold"),
    (lambda: ReasoningSpans(PEOPLE, trace="entity").questions(), "should be a list of steps"),
    (lambda: ReasoningSpans(TRACES, GivenVerdicts("answer")).questions(), "a list with one verdict for each"),
    (lambda: Hierarchy(WARD, ["ward"], ["East", "West/Cy"]), "paths of one depth"),
    (lambda: Hierarchy(WARD, ["ward"], ["North"]).questions(), "Found none below 'North'"),
    (lambda: Hierarchy(WARD, ["ward"], ["East"], "other"), "`side` should be one of"),  # type: ignore[arg-type]
    (lambda: Paraphrases(PEOPLE, most=0), "`most` should be at least 1"),
]


@pytest.mark.parametrize(("make", "match"), REFUSED, ids=[match for _, match in REFUSED])
def test_what_cannot_be_done_is_refused(make: Callable[[], Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()
