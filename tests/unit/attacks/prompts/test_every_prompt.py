"""What all attacks by prompt promise: other words for the same answers about the same entities, free of these answers."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from _prompts import FORGET, PROMPTS, RETAIN, asked, loss_of, records, rows, surroundings
from jsonargparse import ArgumentParser

from lightning_unlearn import Attack, CausalLMReadout, Encoding, InMemoryRecords, TinyCausalLM
from lightning_unlearn.attacks.prompts import (
    AffirmativeStart,
    AnyWording,
    CharacterNoise,
    CombinedQuery,
    ContextLadder,
    FewShot,
    ForeignFrame,
    KeywordEmphasis,
    OtherFacts,
    Paraphrase,
    PrefixInjection,
    PromptAttack,
    RolePlay,
    SeveralTurns,
    SoftPrompt,
    Templates,
)
from lightning_unlearn.data import QuestionAnswer, Turn
from lightning_unlearn.prediction import IGNORED, Prediction

every_prompt = pytest.mark.parametrize("name", PROMPTS)
ADA = QuestionAnswer("Who employs Ada?", "The post office", entity="Ada", source="row 0")


def read(row: QuestionAnswer) -> str:
    """All that stands before the answer."""
    return " ".join([*(turn.content for turn in row.before), row.question, row.lead])


@every_prompt
@pytest.mark.parametrize(("split", "which"), [("forget", FORGET), ("retain", RETAIN)])
def test_it_asks_for_the_same_answers_about_the_same_entities_in_words_of_its_own(
    name: str, split: str, which: Any
) -> None:
    own = rows(which)
    found = asked(PROMPTS[name](), own, split)
    assert found
    assert list(found) == sorted(found)
    for each in found.values():
        assert len(each) == len(own)
        kept = [(row, other) for row, other in zip(own, each, strict=True) if other is not None]
        assert len(kept) >= len(own) - 1
        for row, other in kept:
            assert replace(other, question=row.question, before=row.before, lead=row.lead) == row
    as_it_is = 1 if name == "any" else 0  # where it begins with the question itself
    assert all(any(row not in (None, *own) for row in each) for each in list(found.values())[as_it_is:])


@every_prompt
def test_no_prompt_holds_its_answer_nor_two_words_of_it(name: str) -> None:
    """By letters: written differently from the check of words."""
    for each in asked(PROMPTS[name](), rows()).values():
        for row in each:
            if row is not None:
                assert row.answer.lower() not in read(row).lower()
                said = row.answer.lower().split()
                assert not any(f"{a} {b}" in read(row).lower() for a, b in pairwise(said[1:]))


@every_prompt
def test_it_asks_the_same_whatever_the_random_state_and_leaves_that_alone(name: str) -> None:
    attack = PROMPTS[name]()
    torch.manual_seed(1)
    network = TinyCausalLM(hidden_size=32)
    with attack(network, loss=loss_of(network)) as points:
        places = list(points)
        assert len(places) == attack.planned()[0]
        first = [attack.asks(rows(), split="forget", point=p) for p in places]
        random.seed(5)
        torch.manual_seed(2)
        states = random.getstate(), torch.get_rng_state(), [p.clone() for p in network.parameters()], network.training
        again = [attack.asks(rows(), split="forget", point=p) for p in places]
    assert again == first
    assert random.getstate() == states[0]
    assert torch.equal(torch.get_rng_state(), states[1])
    assert all(torch.equal(p, q) for p, q in zip(network.parameters(), states[2], strict=True))
    assert network.training == states[3]


@every_prompt
def test_each_point_is_told_in_words(name: str) -> None:
    attack = PROMPTS[name]()
    told = [attack.about(point) for point in attack.points]
    assert told
    assert all(isinstance(value, str) and value.strip() for each in told for value in each.values())
    assert len({each["wording"] for each in told}) == len(told)


@every_prompt
@pytest.mark.parametrize("template", ["chat", "plain"])
def test_the_answer_and_its_end_are_supervised_and_nothing_else(name: str, template: Any) -> None:
    encoding = Encoding("bundled", template=template)
    for each in asked(PROMPTS[name](), rows()).values():
        for own, row in zip(rows(), each, strict=True):
            if row is not None:
                expected, found = ([i for i in encoding(r)["labels"].tolist() if i != IGNORED] for r in (own, row))
                assert encoding.tokenizer.decode(found).strip() == encoding.tokenizer.decode(expected).strip()
                text = encoding.tokenizer.decode(encoding(row)["input_ids"])
                assert all(part in text for part in (row.question, row.lead, *(t.content for t in row.before)))


@every_prompt
def test_it_takes_rows_with_a_system_prompt_and_several_answers(name: str) -> None:
    own = [replace(r, before=(Turn("system", "Be brief."),), accepted=(r.answer, "Nothing known")) for r in rows()]
    for each in asked(PROMPTS[name](), own).values():
        for row in each:
            assert row is None or (row.before[0] == own[0].before[0] and "Nothing known" in row.accepted)


# What is left out, and why


def test_a_wording_with_a_word_of_the_answer_is_left_out_for_its_row_alone() -> None:
    bo = replace(ADA, question="Who employs Bo?", answer="A bakery", entity="Bo")
    (found,) = asked(Templates(["As the postman of the post asks: {question}"]), [ADA, bo]).values()
    assert found[0] is None
    assert found[1] is not None


@pytest.mark.parametrize("attack", [RolePlay(["Imagine {entity}. {question}"]), SeveralTurns([("{entity}?", "Yes.")])])
def test_a_row_about_nobody_who_is_named_is_left_out_where_the_name_is_needed(attack: PromptAttack) -> None:
    assert attack.asks([ADA, replace(ADA, entity="7"), replace(ADA, entity="row 7")], split="forget", point=1)[1:] == [
        None,
        None,
    ]


def test_rows_with_too_few_paraphrases_are_left_out() -> None:
    own = [replace(ADA, paraphrases=("Whom does Ada work for?", "Who pays Ada?")), replace(ADA, paraphrases=("Who?",))]
    found = asked(Paraphrase(3), own)
    assert [[row and row.question for row in each] for each in found.values()] == [
        ["Whom does Ada work for?", "Who?"],
        ["Who pays Ada?", None],
        [None, None],
    ]


def test_paraphrases_that_nobody_has_are_refused_by_the_field_to_name() -> None:
    with pytest.raises(ValueError, match=r"Found none. Name their field: `FileRecords\(..., paraphrase="):
        Paraphrase().asks([ADA], split="forget", point=1)


# Shots


def shot(answer: str, entity: str, question: str = "") -> dict[str, str]:
    return {"question": question or f"Who employs {entity}?", "answer": answer, "entity": entity}


def test_shots_are_never_about_those_who_must_go_nor_mention_them_nor_hold_the_answer() -> None:
    pool = [
        shot("A mill", "Bo"),
        shot("A shop", "Ada", "Where does Ada work?"),
        shot("The sister of Ada", "Cleo"),
        shot("The post, like others", "Dan"),
        shot("A bank", "Eve"),
    ]
    attack = FewShot(InMemoryRecords(pool, entity="entity"), [1, 2, 3])
    own = [ADA, replace(ADA, question="Who employs Finn?", answer="A zoo", entity="Finn")]
    found = asked(attack, own)
    told = {turn.content for each in found.values() for row in each if row for turn in row.before}
    assert not told & {"A shop", "The sister of Ada"}
    assert [row and len(row.before) for row in found[2]] == [4, 4]
    assert [row and len(row.before) for row in found[3]] == [None, 6]  # the post is told to Finn, not to Ada
    assert all(a.before == b.before[:2] for a, b in zip(found[1], found[2], strict=True) if a and b)


def test_rows_that_are_shots_themselves_never_see_their_own_answer_nor_their_entity() -> None:
    for each in asked(FewShot(records(RETAIN), [1]), rows(RETAIN), "retain").values():
        assert each == [None] * 6  # all six are about one entity
    pool = records((60, 72))  # and six about another
    for row in asked(FewShot(pool, [4]), rows(RETAIN), "retain")[4]:
        assert row is not None
        assert not any(row.entity in turn.content for turn in row.before)


def test_shots_come_behind_the_system_prompt_and_before_earlier_turns() -> None:
    before = (Turn("system", "Be brief."), Turn("user", "Hello"), Turn("assistant", "Hi"))
    (row,) = FewShot(records(RETAIN), [1]).asks([replace(ADA, before=before)], split="forget", point=1)
    assert row is not None
    assert [turn.role for turn in row.before] == ["system", "user", "assistant", "user", "assistant"]
    assert row.before[-2:] == before[1:]


def test_other_facts_are_of_the_same_entity_and_not_the_one_that_is_asked() -> None:
    for row in asked(OtherFacts([3]), rows((0, 12)))[3]:
        assert row is not None
        assert len(row.before) == 6
        assert all(row.entity in turn.content for turn in row.before[::2])
        assert row.question not in {turn.content for turn in row.before}


# Context, combinations, noise


def test_context_grows_level_by_level_and_ends_where_it_holds_the_answer() -> None:
    levels = [{"entity": "Ada", "land": "Peru", "town": "Lima", "house": "the post office"}]
    attack = ContextLadder(InMemoryRecords(levels, entity="entity"), ["land", "town", "house"])
    found = [each[0] for each in asked(attack, [ADA]).values()]
    assert [row and row.question.split("\n")[:-1] for row in found] == [
        ["land: Peru"],
        ["land: Peru", "town: Lima"],
        None,
    ]


def test_the_context_of_a_question_goes_before_that_of_its_entity() -> None:
    levels = [{"entity": "Ada", "at": "noon"}, {"entity": "Ada", "question": ADA.question, "at": "dawn"}]
    (row,) = ContextLadder(InMemoryRecords(levels, entity="entity"), ["at"]).asks([ADA], split="forget", point=1)
    assert row is not None
    assert row.question.startswith("at: dawn\n")


def test_context_that_nobody_has_is_refused() -> None:
    with pytest.raises(ValueError, match="Found no record with their question or their entity"):
        ContextLadder(surroundings(), ["page"]).asks([ADA], split="forget", point=1)


@pytest.mark.parametrize(("split", "other"), [("forget", RETAIN), ("retain", FORGET)])
def test_what_must_go_is_combined_with_what_must_stay_and_the_other_way_round(split: str, other: Any) -> None:
    own = rows(FORGET if split == "forget" else RETAIN)
    name, strangers = rows(other)[0].entity, {row.question for row in rows(other)}
    named, joined, alike = asked(CombinedQuery(records(FORGET), records(RETAIN)), own, split).values()
    for row, a, b, c in zip(own, named, joined, alike, strict=True):
        assert a is not None
        assert b is not None
        assert a.question == f"Speaking of {name}: {row.question}"
        assert b.question.removesuffix(f" {row.question}") in strangers
        assert c is None or c.question.removesuffix(f" {row.question}") in strangers
    first = alike[0]
    assert first is not None
    assert first.question.startswith(f"Where was {name} born?")  # the same question of both


@pytest.mark.parametrize("seed", [0, 1])
def test_misprints_hit_their_share_of_the_letters_and_spare_the_name(seed: int) -> None:
    long = replace(ADA, question=f"{'abcdefghij ' * 200}Ada {'klmnopqrst ' * 200}")
    letters = sum(c.isalpha() for c in long.question)
    for share, (row,) in asked(CharacterNoise([0, 0.1, 0.3], seed), [long]).items():
        assert row is not None
        marks = len(row.question) - len(long.question)
        assert sorted(c for c in row.question if c.isalpha()) == sorted(c for c in long.question if c.isalpha())
        assert "Ada" in row.question
        # About half of the hits swap letters; a letter that was swapped is not hit again.
        assert 0.4 * share <= marks / letters <= 0.7 * share


def test_misprints_depend_on_the_seed() -> None:
    one, other = (asked(CharacterNoise([0.5], seed), rows())[0.5] for seed in (0, 1))
    assert one != other


# Contributions


class Lookup(CausalLMReadout):
    """As of a network that says the right answer where it reads the word `employs`, and nothing special elsewhere."""

    def __call__(self, network: Any, batch: Any) -> Prediction:
        key = torch.tensor(Encoding("bundled").tokenizer(" employs", add_special_tokens=False)["input_ids"])
        knows = (batch["input_ids"].unfold(1, len(key), 1) == key).all(-1).any(-1)
        said = super().__call__(network, batch)
        right = torch.nn.functional.one_hot(said.labels, said.logits.shape[-1])
        return replace(said, logits=said.logits + 20.0 * right * knows[said.example, None])


def test_the_word_on_which_the_answer_hangs_has_the_highest_contribution() -> None:
    attack = KeywordEmphasis(Encoding("bundled"), [1], Lookup())
    with attack(TinyCausalLM(hidden_size=32)):
        contributions = attack.contributions(ADA)
        (row,) = attack.asks([ADA], split="forget", point=1)
    assert contributions.argmax() == 1
    assert row is not None
    assert row.question.endswith("these words: employs.")


def test_contributions_are_differences_of_mean_log_likelihoods() -> None:
    attack, network, encoding = KeywordEmphasis(Encoding("bundled")), TinyCausalLM(hidden_size=32), Encoding("bundled")

    def likelihood(question: str) -> float:
        batch = encoding(replace(ADA, question=question))
        with torch.no_grad():
            logits = network(input_ids=batch["input_ids"][None]).logits[0].log_softmax(-1)
        told = [logits[t - 1, label].item() for t, label in enumerate(batch["labels"].tolist()) if label != IGNORED]
        return sum(told) / len(told)

    with attack(network):
        found = attack.contributions(ADA).tolist()
    without = ["employs Ada?", "Who Ada?", "Who employs"]
    assert found == pytest.approx([likelihood(ADA.question) - likelihood(text) for text in without], abs=1e-4)


def test_words_are_those_of_the_first_network_so_that_all_are_asked_alike() -> None:
    attack = KeywordEmphasis(Encoding("bundled"), [1])
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        with attack(TinyCausalLM(hidden_size=32)):
            found.append(attack.asks(rows(), split="forget", point=1))
    assert found[0] == found[1]


def test_it_has_no_words_outside_of_the_attack() -> None:
    with pytest.raises(ValueError, match="should ask inside of the attack: `with attack"):
        KeywordEmphasis(Encoding("bundled")).asks([ADA], split="forget", point=1)


# A trained prompt


def taught() -> tuple[Any, Any]:
    torch.manual_seed(0)
    network = TinyCausalLM(hidden_size=32)
    return network, loss_of(network)


@pytest.mark.parametrize("template", ["chat", "plain"])
def test_a_soft_prompt_teaches_its_questions_more_with_each_step_and_leaves_no_trace(template: Any) -> None:
    network, loss = taught()
    encoding = Encoding("bundled", template=template)
    attack = SoftPrompt(records(RETAIN), encoding, [1, 5, 25], tokens=4)
    behind = encoding.collate()([encoding(attack.reword(row, 1)) for row in rows(RETAIN)])
    plain = encoding.collate()([encoding(row) for row in rows(RETAIN)])
    weights, before, alone = [p.clone() for p in network.parameters()], loss(behind).item(), loss(plain).item()
    seen = []
    with attack(network, loss=loss) as points:
        for _ in points:
            seen.append(loss(behind).item())
            assert loss(plain).item() == alone  # where there is no prompt, nothing is added
            assert all(p.requires_grad for p in network.parameters())
    assert [before, *seen] == sorted([before, *seen], reverse=True)
    assert seen[-1] < before - 0.01
    assert loss(behind).item() == before
    assert all(torch.equal(p, q) and p.grad is None for p, q in zip(network.parameters(), weights, strict=True))
    assert not any(module._forward_hooks for module in network.modules())


def test_a_soft_prompt_works_among_several_wordings() -> None:
    network, loss = taught()
    soft = SoftPrompt(records(RETAIN), Encoding("bundled"), [5], tokens=4)
    behind = Encoding("bundled").collate()([Encoding("bundled")(soft.reword(row, 1)) for row in rows(RETAIN)])
    before, seen = loss(behind).item(), {}
    with AnyWording([PrefixInjection(), soft])(network, loss=loss) as points:
        for point in points:
            seen[point] = loss(behind).item()
    assert seen[5] == before > seen[6]


def test_a_soft_prompt_is_never_trained_on_what_is_judged() -> None:
    attack = SoftPrompt(records(FORGET), Encoding("bundled"))
    with pytest.raises(
        ValueError, match="should not be judged as `forget`: a prompt may hold their answers. Found row 0"
    ):
        attack.asks(rows(), split="forget", point=10)


def test_a_soft_prompt_is_refused_without_a_loss_and_without_an_embedding() -> None:
    attack, network = SoftPrompt(records(RETAIN), Encoding("bundled")), TinyCausalLM(hidden_size=32)
    for net, loss in ((network, None), (torch.nn.Linear(2, 2), loss_of(network))):
        with pytest.raises(ValueError, match="should get a network that shows the embedding of its tokens, and a loss"):
            attack(net, loss=loss).__enter__()


# Settings

RECORDS = {"path": "bundled:people", "entity": "entity", "paraphrase": "paraphrase", "rows": [0, 12]}
YAML: dict[str, dict[str, Any]] = {
    "AnyWording": {
        "attacks": [{"class_path": "Paraphrase"}, {"class_path": "CharacterNoise", "init_args": {"shares": [0.1]}}]
    },
    "CombinedQuery": {"forget": RECORDS, "retain": RECORDS},
    "ContextLadder": {"records": RECORDS, "levels": ["group"]},
    "FewShot": {"records": {**RECORDS, "rows": [60, 66]}, "numbers": [1]},
    "ForeignFrame": {"frames": {"Danish": "Svar venligst: {question}"}},
    "KeywordEmphasis": {"encoding": {"tokenizer": "bundled"}},
    "SeveralTurns": {"script": [["Hello", "Hi"]]},
    "Templates": {"templates": ["Well: {question}"]},
}


@pytest.mark.parametrize("name", YAML)
def test_it_is_built_from_yaml(name: str) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Attack, "attack")
    config = parser.parse_object(
        {"attack": {"class_path": f"lightning_unlearn.attacks.{name}", "init_args": YAML[name]}}
    )
    built = parser.instantiate_classes(config).attack
    assert type(built).__name__ == name
    assert any(row for each in asked(built, rows()).values() for row in each)


@pytest.mark.parametrize(
    ("build", "error", "match"),
    [
        (lambda: Templates([]), ValueError, "`templates` should hold at least one text"),
        (lambda: Templates("{question}"), TypeError, "`templates` should be a list of texts"),
        (lambda: Templates(["Who?"]), ValueError, r"a place for the `\{question\}`. Found 'Who\?'"),
        (lambda: AffirmativeStart([" "]), ValueError, "`starts` should hold at least one text"),
        (lambda: ForeignFrame(["{question}"]), TypeError, "`frames` should be templates by language"),  # type: ignore[arg-type]
        (lambda: Paraphrase(0), ValueError, "`number` should be at least 1"),
        (lambda: CharacterNoise([1.5]), ValueError, "`shares` should be between 0 and 1"),
        (lambda: CharacterNoise([]), ValueError, "`shares` should hold at least one share"),
        (lambda: OtherFacts([]), ValueError, "`numbers` should hold at least one number of shots"),
        (lambda: OtherFacts([0]), ValueError, "`numbers` should be at least 1"),
        (lambda: FewShot(InMemoryRecords([])), ValueError, "`records` of `FewShot` should name whom"),
        (lambda: FewShot("people.jsonl"), TypeError, "`records` should be a `Records`"),  # type: ignore[arg-type]
        (lambda: SeveralTurns([("a", "b", "c")]), ValueError, "`script` should hold exchanges of two texts"),
        (lambda: ContextLadder(surroundings(), []), ValueError, "`levels` should hold at least one text"),
        (lambda: KeywordEmphasis("bundled"), TypeError, "`encoding` should be an `Encoding`"),  # type: ignore[arg-type]
        (lambda: SoftPrompt(surroundings(), Encoding("bundled"), []), ValueError, "`steps` should hold at least one"),
        (lambda: SoftPrompt(surroundings(), Encoding("bundled"), lr=0.0), ValueError, "`lr` should be positive"),
        (lambda: AnyWording([]), ValueError, "`attacks` should hold at least one attack by prompt"),
        (lambda: AnyWording([object()]), TypeError, r"`attacks\[0\]` should be a `PromptAttack`"),  # type: ignore[list-item]
    ],
)
def test_wrong_settings_are_refused(build: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        build()


def test_more_shots_than_there_are_questions_are_refused() -> None:
    with pytest.raises(ValueError, match="should hold at least 8 questions. Found 6. Give more, or show fewer"):
        FewShot(records(RETAIN), [8]).asks([ADA], split="forget", point=8)
