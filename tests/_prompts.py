"""Every attack by prompt, and rows to ask about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from lightning_unlearn import CausalLMReadout, CrossEntropy, Encoding, FileRecords, InMemoryRecords, TinyCausalLM
from lightning_unlearn.attacks.prompts import (
    AffirmativeStart,
    AnyWording,
    BenignTrigger,
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
    TypicalWording,
)
from lightning_unlearn.data import QuestionAnswer

FORGET, RETAIN = (0, 6), (60, 66)


def records(which: tuple[int, int], **options: Any) -> FileRecords:
    return FileRecords("bundled:people", entity="entity", paraphrase="paraphrase", rows=which, **options)


def rows(which: tuple[int, int] = FORGET) -> list[QuestionAnswer]:
    return records(which).questions()


def surroundings() -> InMemoryRecords:
    names = sorted({row.entity for which in (FORGET, RETAIN) for row in rows(which)})
    levels = [{"entity": name, "register": "Authors", "page": str(i)} for i, name in enumerate(names)]
    return InMemoryRecords(levels, entity="entity")


PROMPTS: dict[str, Callable[[], PromptAttack]] = {
    "affirmative": AffirmativeStart,
    "any": lambda: AnyWording([Paraphrase(), PrefixInjection()]),
    "combined": lambda: CombinedQuery(records(FORGET), records(RETAIN)),
    "emphasis": lambda: KeywordEmphasis(Encoding("bundled"), [2]),
    "few-shot": lambda: FewShot(records((66, 90)), [1, 3]),
    "foreign": ForeignFrame,
    "ladder": lambda: ContextLadder(surroundings(), ["register", "page"]),
    "noise": lambda: CharacterNoise([0.2, 0.4]),
    "other-facts": lambda: OtherFacts([1, 3]),
    "paraphrase": Paraphrase,
    "prefix": PrefixInjection,
    "role-play": RolePlay,
    "soft": lambda: SoftPrompt(records((66, 78)), Encoding("bundled"), steps=[1, 3], tokens=3),
    "templates": lambda: Templates(["{question} Think of {entity}."]),
    "trigger": BenignTrigger,
    "turns": SeveralTurns,
    "typical": lambda: TypicalWording([OtherFacts([1]), CharacterNoise([0.3])]),
}
"""A new attack by prompt joins here, and inherits what holds for all."""

Asked = dict[float, list[QuestionAnswer | None]]


def asked(attack: PromptAttack, given: list[QuestionAnswer], split: str = "forget") -> Asked:
    """What an attack asks at each of its points."""
    network = TinyCausalLM(hidden_size=32)
    with attack(network, loss=loss_of(network)) as points:
        return {point: list(attack.asks(given, split=split, point=point)) for point in points}


def loss_of(network: Any) -> Callable[[Any], Tensor]:
    """What an attacker minimises."""
    return lambda batch: CrossEntropy()(CausalLMReadout()(network, batch))
