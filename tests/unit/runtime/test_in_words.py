"""What an attack or an audit was made with, in words: all of it, and nothing that changes while it works."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _attacks_and_audits import ATTACKS, AUDITS, AUDITS_IN_WORDS
from torch import nn

from lightning_unlearn import Quantize, Relearn
from lightning_unlearn.attacks.prompts import AffirmativeStart, AnyWording, CharacterNoise
from lightning_unlearn.audits import ExactLeak, Measure, Membership
from lightning_unlearn.data import FactSplit
from lightning_unlearn.metrics import AnswerProbability, ExactMemorization, ExtractionStrength
from lightning_unlearn.prediction import KnownLikelihood
from lightning_unlearn.runtime import in_words


class Kind(Enum):
    ONE = 1
    OTHER = 2


MADE: dict[str, Callable[[], Any]] = {**ATTACKS, **AUDITS, **AUDITS_IN_WORDS}
DIFFERENT: list[Callable[[], Any]] = [
    lambda: Measure(),
    lambda: Measure({"p": AnswerProbability()}),
    lambda: Measure({"q": AnswerProbability()}),
    lambda: Measure({"p": ExactMemorization()}),
    lambda: Measure({"p": ExtractionStrength()}),
    lambda: Measure({"p": ExtractionStrength(compat="open-unlearning")}),
    lambda: ExactLeak((1,)),
    lambda: ExactLeak((1, 99)),
    lambda: Membership(),
    lambda: Membership(false_positive_rates=[0.1]),
    lambda: Membership({"loss": AnswerProbability()}),
    lambda: Relearn(),
    lambda: Relearn(facts=FactSplit(seed=0)),
    lambda: Relearn(facts=FactSplit(seed=1)),
    lambda: AnyWording([AffirmativeStart(), CharacterNoise()]),
    lambda: AnyWording([CharacterNoise(), AffirmativeStart()]),
    lambda: Quantize(bits=4),
    lambda: {"int4": Quantize(bits=4)},
    lambda: [Quantize(bits=4)],
    lambda: partial(Quantize, bits=4),
    lambda: torch.zeros(3),
    lambda: torch.zeros(3, dtype=torch.float64),
    lambda: torch.ones(3),
    lambda: nn.Linear(2, 2, bias=False),
    lambda: nn.Embedding(2, 2),
    lambda: {1, 2},
    lambda: re.compile("a+"),
    lambda: Path("a+"),
    lambda: Quantize,
    lambda: Kind.ONE,
    lambda: Kind.OTHER,
    lambda: np.zeros(2),
    lambda: np.ones(2),
    lambda: np.float32(1),
]


def made(one: Callable[[], Any]) -> str:
    torch.manual_seed(0)
    return in_words(one())


def test_what_was_made_otherwise_reads_otherwise_and_the_same_the_same() -> None:
    words = [made(one) for one in DIFFERENT]
    assert len(set(words)) == len(words)
    assert words == [made(one) for one in DIFFERENT]


def arguments(kind: type) -> set[str]:
    """Of its constructors, those whose names are given."""
    every = [inspect.signature(base.__init__).parameters.values() for base in kind.__mro__ if "__init__" in vars(base)]
    return {p.name for of in every[:-1] for p in of if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)} - {"self"}


@pytest.mark.parametrize("name", MADE)
def test_every_argument_is_in_the_words(name: str) -> None:
    instance = MADE[name]()
    kept = {"metrics": "given", "scores": "given", "false_positive_rates": "compare"}
    missing = {each for each in arguments(type(instance)) if not {each, kept.get(each)} & set(vars(instance))}
    assert not missing
    assert re.search(r"0x[0-9a-f]{6,}", in_words(instance)) is None


def test_what_was_counted_is_not_in_the_words() -> None:
    metric = AnswerProbability()
    before = in_words(metric)
    metric.update(KnownLikelihood(torch.ones(2), torch.arange(2), 2))
    assert in_words(metric) == before


def test_what_holds_itself_has_an_end() -> None:
    quantize: Any = Quantize(bits=4)
    quantize.own = [quantize]
    assert "own=(...)" in in_words(quantize)


@pytest.mark.slow
def test_another_process_says_the_same() -> None:
    code = (
        "from lightning_unlearn.runtime import in_words\n"
        "from lightning_unlearn.audits import Generation\n"
        "from lightning_unlearn.attacks.prompts import AnyWording, CharacterNoise\n"
        "print(in_words([Generation('bundled'), AnyWording([CharacterNoise()]), {'b', 'a', 'c'}]))"
    )
    said = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout for _ in "12"
    }
    assert len(said) == 1
