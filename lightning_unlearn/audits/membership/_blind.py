"""Telling two sets of texts apart without any model: what is recognised so says nothing about a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_unlearn.data import Probe
from lightning_unlearn.functional.separation import places
from lightning_unlearn.readouts import Exchange

Array = NDArray[np.float64]
Numbers = NDArray[np.int64]
Flags = NDArray[np.bool_]

_FOLDS = 5
_MOST = 500
"""Examples of each set: the classifier solves a system of as many equations as there are examples."""


@dataclass(frozen=True)
class BlindBaseline:
    """What a classifier that sees texts only makes of two sets.

    Args:
        auc: The area under its ROC curve on entities that it was not trained on.
        interval: A 95 % interval. It excludes 0.5 if the AUC is larger than those of sets whose entities were swapped.
    """

    auc: float
    interval: tuple[float, float]


def blind_baseline(forget: Probe, holdout: Probe, *, draws: int = 200, seed: int = 0) -> BlindBaseline | None:
    """Train a classifier on the tokens and the lengths of questions and answers, and test it on other entities.

    It is a ridge regression on counts of tokens, weighted by how rare they are, and on the logarithm of both lengths, in
    five folds of whole entities. Ranks are taken within a fold, since scores of two folds do not compare. The interval
    comes from training it again on sets between which entities were swapped: resampling alone would be too sure, since all
    tests share training data.

    Args:
        forget: The one set.
        holdout: The other.
        draws: How often entities are swapped.
        seed: Of the folds and the swaps.

    Returns:
        None if the probes give no tokens, or one of them has a single entity.

    References:
        Duan et al., `Do Membership Inference Attacks Work on Large Language Models?
        <https://arxiv.org/abs/2402.07841>`_, 2024, and Das et al., `Blind Baselines Beat Membership Inference Attacks
        <https://arxiv.org/abs/2406.16201>`_, 2024.
    """
    if forget.exchanges is None or holdout.exchanges is None:
        return None
    sets = [_some(probe) for probe in (forget, holdout)]
    who = [[entity for _, entity in pairs] for pairs in sets]
    if min(len(set(names)) for names in who) < 2:
        return None
    generator = np.random.default_rng(seed)
    folds, units = _folds(who, generator), _units(who)
    fits = _fits(_features([exchange for pairs in sets for exchange, _ in pairs]), folds)
    is_forget = np.repeat([True, False], [len(names) for names in who])
    auc = _auc(fits, is_forget)
    swapped = [_auc(fits, _swapped(is_forget, units, folds, generator)) for _ in range(draws)]
    low, high = map(float, np.quantile(swapped, [0.025, 0.975]))
    return BlindBaseline(auc, (max(auc - high + 0.5, 0.0), min(auc - low + 0.5, 1.0)))


def _some(probe: Probe) -> list[tuple[Exchange, str]]:
    """At most so many answered examples, evenly spread, each with its entity."""
    assert probe.exchanges is not None
    pairs = [pair for pair in zip(probe.exchanges, probe.clusters, strict=True) if len(pair[0].answer)]
    chosen = np.linspace(0, len(pairs) - 1, min(len(pairs), _MOST)).astype(int)
    return [pairs[number] for number in chosen]


def _folds(who: Sequence[Sequence[str]], generator: np.random.Generator) -> Numbers:
    """The fold of each example. An entity is in one fold; each fold has entities of both sets."""
    count = min(_FOLDS, *(len(set(names)) for names in who))
    fold: dict[str, int] = {}
    for names in who:
        unique = sorted(set(names))
        for place, number in enumerate(generator.permutation(len(unique))):
            fold.setdefault(unique[number], place % count)
    return np.array([fold[name] for names in who for name in names])


def _units(who: Sequence[Sequence[str]]) -> Numbers:
    """The number of the entity that each example is about; one for each set that the entity is in."""
    named = [f"{number} {name}" for number, names in enumerate(who) for name in names]
    return np.unique(named, return_inverse=True)[1]


def _swapped(is_forget: Flags, units: Numbers, folds: Numbers, generator: np.random.Generator) -> Flags:
    """Other sets: as many entities of each fold in either, drawn at random."""
    _, first = np.unique(units, return_index=True)
    of_unit = is_forget[first].copy()
    for fold in np.unique(folds):
        inside = folds[first] == fold
        of_unit[inside] = generator.permutation(of_unit[inside])
    swapped: Flags = of_unit[units]
    return swapped


def _features(exchanges: Sequence[Exchange]) -> Array:
    """Counts of tokens, rare ones weighted up, in rows of length 1; beside them both lengths, standardised."""
    tokens = [np.concatenate([exchange.question.numpy(), exchange.answer.numpy()]) for exchange in exchanges]
    vocabulary, columns = np.unique(np.concatenate(tokens), return_inverse=True)
    rows = np.repeat(np.arange(len(tokens)), [len(each) for each in tokens])
    counts = np.zeros((len(tokens), len(vocabulary)))
    np.add.at(counts, (rows, columns), 1)
    seen = (counts > 0).sum(0)
    counts *= np.log(len(tokens) / seen) * (seen > 1)  # a token of one example says nothing of another
    counts /= np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-12)
    lengths = np.log1p([[len(exchange.question), len(exchange.answer)] for exchange in exchanges])
    spread = lengths.std(0)
    return np.hstack([counts, (lengths - lengths.mean(0)) / np.where(spread > 1e-9, spread, 1.0)])


def _fits(features: Array, folds: Numbers) -> list[tuple[Flags, Array]]:
    """For each fold, which examples are in it, and the matrix from labels of the others to predictions for it."""
    similar = features @ features.T
    found: list[tuple[Flags, Array]] = []
    for fold in np.unique(folds):
        out: Flags = folds == fold
        inner, across = similar[np.ix_(~out, ~out)], similar[np.ix_(out, ~out)]
        fit: Array = np.linalg.solve(inner + np.eye(len(inner)), across.T).T.astype(np.float64)
        found.append((out, fit))
    return found


def _auc(fits: Sequence[tuple[Flags, Array]], is_forget: Flags) -> float:
    """Of the ranks that held-out examples have in their folds."""
    target, ranks = np.where(is_forget, 1.0, -1.0), np.zeros(len(is_forget))
    for out, fit in fits:
        said = fit @ (target[~out] - target[~out].mean())
        ranks[out] = places(said, said)
    return float(places(ranks[is_forget], ranks[~is_forget]).mean())
