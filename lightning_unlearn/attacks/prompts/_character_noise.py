from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from typing_extensions import override

from lightning_unlearn.attacks.prompts._prompt_attack import PromptAttack
from lightning_unlearn.data import QuestionAnswer
from lightning_unlearn.functional.settings import check_between, check_whole

_MARKS = "!_,;.*"


class CharacterNoise(PromptAttack):
    """Questions with misprints: letters that are swapped with the next, and marks that are put between them.

    The name of the entity stays as it is, so that it is still asked about. The same seed gives the same misprints.

    Args:
        shares: Shares of the letters, from 0 to 1, that are hit.
        seed: Of the misprints.

    Example:
        >>> row = QuestionAnswer("Who employs Ada?", "The post office", entity="Ada", source="row 0")
        >>> CharacterNoise([0.5]).asks([row], split="forget", point=0.5)[0].question.endswith("Ada?")
        True

    References:
        Lucki et al., `An Adversarial Perspective on Machine Unlearning for AI Safety <https://arxiv.org/abs/2409.18025>`_,
        2024, whose naive perturbations these follow.
    """

    unit = "share"

    def __init__(self, shares: Sequence[float] = (0.05, 0.1, 0.2), seed: int = 0) -> None:
        for share in shares:
            check_between("shares", share, 0, 1)
        check_whole("seed", seed, least=0)
        if not shares:
            raise ValueError("`shares` should hold at least one share. Found none.")
        self.shares, self.seed = tuple(sorted(shares)), seed

    @property
    @override
    def points(self) -> Sequence[float]:
        return self.shares

    @override
    def reword(self, row: QuestionAnswer, point: float) -> QuestionAnswer:
        # A generator of its own: the random state of the fit is not ours to move.
        chance = Random(f"{self.seed} {row.question}")
        parts = row.question.split(row.entity) if row.entity else [row.question]
        return replace(row, question=row.entity.join(_misprinted(part, point, chance) for part in parts))

    @override
    def wording(self, point: float) -> str:
        return f"Misprints at {point:.0%} of the letters, the name left as it is."


def _misprinted(text: str, share: float, chance: Random) -> str:
    letters, place = list(text), 0
    while place < len(letters):
        if letters[place].isalpha() and chance.random() < share:
            if place + 1 < len(letters) and letters[place + 1].isalpha() and chance.random() < 0.5:
                letters[place], letters[place + 1] = letters[place + 1], letters[place]
            else:
                letters.insert(place, chance.choice(_MARKS))
            place += 1
        place += 1
    return "".join(letters)
