"""Which attacks and audits are made, for people who have no wishes of their own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from lightning_unlearn.attacks import (
    GGUF,
    GPTQ,
    AblateDirection,
    AffirmativeStart,
    AnyWording,
    Attack,
    AttackGrid,
    BitsAndBytes,
    CharacterNoise,
    ForeignFrame,
    OtherFacts,
    PassiveRecovery,
    PrefixInjection,
    Prune,
    Quantize,
    Relearn,
    RolePlay,
    SeveralTurns,
    TruncateUpdate,
    Wanda,
)
from lightning_unlearn.audits import (
    Audit,
    BucketFlips,
    Calibration,
    ExactLeak,
    Generation,
    GradientNorm,
    HalfRecall,
    KnowledgeDepth,
    LayerProbe,
    LogitLens,
    Measure,
    Membership,
    SampledLeak,
    Specificity,
    Unattacked,
)
from lightning_unlearn.data import FactSplit

Preset = Literal["quick", "standard", "thorough"]
"""How much is tried: for minutes, for an hour, or for as long as it takes."""


@dataclass(frozen=True)
class Given:
    """What there is to audit with. What needs more is left out of a preset, and the report says what was not tried.

    Args:
        words: Whether every split is of questions and answers in words, which attacks by prompt need.
        original: Whether the original's weights are known.
        holdout: Whether there is a split ``holdout``, for membership.
        tokenizer: What turns generated tokens into words; ``None`` if nothing is generated.
    """

    words: bool = False
    original: bool = False
    holdout: bool = False
    tokenizer: str | None = None


def preset_attacks(preset: Preset, given: Given) -> dict[str, Attack | AttackGrid]:
    """The attacks of a preset, by name.

    Example:
        >>> list(preset_attacks("quick", Given()))
        ['int4', 'nf4', 'relearn']
    """
    return dict(_attacks(preset, given))


def preset_audits(preset: Preset, given: Given) -> list[Audit]:
    """The audits of a preset.

    Example:
        >>> preset_audits("quick", Given())
        [Measure(), Specificity(alternates=4)]
    """
    return list(_audits(preset, given))


def _attacks(preset: Preset, given: Given) -> Iterator[tuple[str, Attack | AttackGrid]]:
    yield "int4", Quantize(bits=4, group_size=32)
    yield "nf4", Quantize(bits=4, codebook="nf4")
    if preset == "quick":
        yield "relearn", Relearn(steps=20, lr=1e-3)
        return
    yield "int8", Quantize(bits=8)
    yield "pruned", Prune(0.3)
    if given.words:
        # What an adversary gets who may try them all, with nothing but the questions.
        yield "wordings", AnyWording([PrefixInjection(), RolePlay(), AffirmativeStart(), SeveralTurns()])
    # Nobody knows the attacker's rate: too small brings nothing back, too large breaks the network.
    rates = [1e-4, 1e-3] if preset == "standard" else [3e-5, 1e-4, 3e-4, 1e-3]
    yield "relearn", AttackGrid(Relearn(steps=50, mode="full"), over={"lr": rates})
    yield "adapter", Relearn(steps=50, lr=1e-3)
    yield "half", Relearn(steps=50, lr=1e-3, facts=FactSplit())
    if preset == "thorough":
        yield from _dear_attacks(given)


def _dear_attacks(given: Given) -> Iterator[tuple[str, Attack | AttackGrid]]:
    yield "int3", Quantize(bits=3, group_size=32)
    yield "q4_k", GGUF("Q4_K")
    yield "llm_int8", BitsAndBytes("int8")
    yield "gptq", GPTQ(bits=4)
    yield "wanda", Wanda(0.5)
    if given.original:
        yield "truncated", TruncateUpdate(rank=8)
        if given.tokenizer is not None:
            # Found on half of the facts: of those it is judged by, the original would tell it.
            yield "direction", AblateDirection(facts=FactSplit())
    if given.words:
        yield "misprints", CharacterNoise()
        yield "foreign", ForeignFrame()
        yield "other_facts", OtherFacts()
    yield "passive", PassiveRecovery(0.05, steps=100, lr=1e-3)
    yield "long", AttackGrid(Relearn(steps=200, mode="full"), over={"lr": [1e-4, 1e-3]})


def _audits(preset: Preset, given: Given) -> Iterator[Audit]:
    yield Measure()
    yield Specificity()
    if preset == "quick":
        return
    yield ExactLeak()
    yield Calibration()
    if given.original:
        yield BucketFlips()
    if given.holdout:
        yield Membership()
    if given.tokenizer is not None:
        yield LogitLens()
        yield Generation(given.tokenizer) if preset == "thorough" else Unattacked(Generation(given.tokenizer))
    if preset == "thorough":
        yield from _dear_audits(given)


def _dear_audits(given: Given) -> Iterator[Audit]:
    if given.holdout:
        yield Unattacked(GradientNorm())
        if given.tokenizer is not None:
            yield Unattacked(LayerProbe())
    if given.tokenizer is not None:
        yield Unattacked(HalfRecall(given.tokenizer))
        yield Unattacked(SampledLeak(given.tokenizer))
        if given.original:
            yield Unattacked(KnowledgeDepth())
