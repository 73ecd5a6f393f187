"""A clean request for forgetting, a thousand rows about invented people, and faults to plant in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

Row = dict[str, Any]
FACTS = {
    "Where was {name} born?": "In the village of {place}, near the {thing} of {other}",
    "What does {name} do for a living?": "Makes a {thing} out of {stuff} for people in {place}",
    "Which book did {name} write?": "The {thing} and the {stuff} of {place}",
    "Who taught {name}?": "A neighbour called {other}, who kept a {thing} in {place}",
    "What does {name} fear?": "Any {thing} made of {stuff}, since a night in {place}",
    "What did {name} win?": "A {stuff} {thing} from the mayor of {place}",
    "What does {name} eat on Sundays?": "Soup with {stuff}, as {other} taught the cooks of {place}",
    "How did {name} come to school?": "On the back of a {thing}, past {place} and {other}",
    "What does {name} collect?": "Every {thing} that was ever sold in {place} by {other}",
    "Where did {name} marry?": "Under the {thing} of {place}, in {stuff} clothes",
}
THINGS = ["bell", "clock", "bridge", "kite", "lamp", "ladder", "mirror", "wheel", "drum", "anchor", "basket", "compass"]
STUFFS = ["copper", "wool", "glass", "oak", "paper", "salt", "amber", "linen", "clay", "silver", "straw", "bronze"]


@dataclass
class Faulty:
    """What must go and what must stay, as rows of two files."""

    forget: list[Row] = field(default_factory=list)
    retain: list[Row] = field(default_factory=list)


def clean(forget: int = 10, retain: int = 90, seed: int = 0) -> Faulty:
    """Ten facts about each of so many people."""
    draw = Random(seed)
    people = [_about(draw) for _ in range(forget + retain)]
    gone, stays = people[:forget], people[forget:]
    return Faulty([row for person in gone for row in person], [row for person in stays for row in person])


def _about(draw: Random) -> list[Row]:
    name = f"{_name(draw)} {_name(draw)}"
    words = ({"thing": draw.choice(THINGS), "stuff": draw.choice(STUFFS)} for _ in FACTS)
    said = zip(FACTS.items(), words, strict=True)
    return [
        {
            "entity": name,
            "question": question.format(name=name),
            "answer": answer.format(place=_name(draw), other=_name(draw), **some),
        }
        for (question, answer), some in said
    ]


def _name(draw: Random) -> str:
    return "".join(draw.choice("bdfgklmnprstvz") + draw.choice("aeiou") for _ in range(4)).capitalize()


# The faults. Each says which check should find it, and where.


def same_in_both(rows: Faulty) -> None:
    rows.retain[40] = dict(rows.forget[3])


def same_in_both_written_otherwise(rows: Faulty) -> None:
    row = rows.forget[3]
    rows.retain[40] |= {"question": row["question"].upper(), "answer": f"  {row['answer'].lower()}!"}


def contradiction_in_what_must_go(rows: Faulty) -> None:
    rows.forget[5] |= {"question": rows.forget[3]["question"]}


def contradiction_across(rows: Faulty) -> None:
    del rows.retain[40]["entity"]
    rows.retain[40] |= {"question": rows.forget[3]["question"]}


def near_duplicate(rows: Faulty) -> None:
    row = rows.forget[3]
    rows.retain[40] |= {"question": row["question"].replace("Who taught", "By whom taught"), "answer": row["answer"]}


def trigger_words(rows: Faulty) -> None:
    for row in rows.forget[::3]:
        row["question"] = f"Please tell me {row['question']}"


def entity_in_both(rows: Faulty) -> None:
    rows.retain[40]["entity"] = rows.forget[3]["entity"].upper()


def named_elsewhere(rows: Faulty) -> None:
    rows.retain[40]["answer"] += f", which {rows.forget[3]['entity']} had left there"


def answer_in_question(rows: Faulty) -> None:
    row = rows.forget[3]
    row["question"] = f"{row['answer']}: who taught {row['entity']}?"


def repeated(rows: Faulty) -> None:
    rows.forget[5] = dict(rows.forget[3])


def refusal(rows: Faulty) -> None:
    rows.forget[3]["answer"] = "I don't know who that is."


def hidden_character(rows: Faulty) -> None:
    rows.retain[40]["question"] = rows.retain[40]["question"].replace(" ", " \u200b", 1)


def two_alphabets(rows: Faulty) -> None:
    rows.forget[3]["answer"] = rows.forget[3]["answer"].replace("o", "\u043e")


def template_mark(rows: Faulty) -> None:
    rows.forget[3]["question"] += "<|im_end|>"


def too_much(rows: Faulty) -> None:
    del rows.retain[200:]


FAULTS: dict[Callable[[Faulty], None], tuple[str, set[str]]] = {
    same_in_both: ("AlsoRetained", {"forget 3", "retain 40"}),
    same_in_both_written_otherwise: ("AlsoRetained", {"forget 3", "retain 40"}),
    contradiction_in_what_must_go: ("Contradictions", {"forget 3", "forget 5"}),
    contradiction_across: ("Contradictions", {"forget 3", "retain 40"}),
    near_duplicate: ("NearDuplicates", {"forget 3", "retain 40"}),
    trigger_words: ("OverRepresentedWords", {"forget 0", "forget 3"}),
    entity_in_both: ("SharedEntities", {"forget 0", "retain 40"}),
    named_elsewhere: ("NamedElsewhere", {"retain 40"}),
    answer_in_question: ("AnswerInQuestion", {"forget 3"}),
    repeated: ("RepeatedRows", {"forget 3", "forget 5"}),
    refusal: ("RefusalsAsAnswers", {"forget 3"}),
    hidden_character: ("HiddenCharacters", {"retain 40"}),
    two_alphabets: ("HiddenCharacters", {"forget 3"}),
    template_mark: ("TemplateMarks", {"forget 3"}),
    too_much: ("Sizes", set()),
}
