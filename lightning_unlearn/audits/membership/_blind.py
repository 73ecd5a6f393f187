"""Telling two sets of texts apart without any model: what is recognised so says nothing about a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_unlearn.data import Probe
from lightning_unlearn.functional.separation import auc_interval, places
from lightning_unlearn.readouts import Exchange

Array = NDArray[np.float64]

_FOLDS = 5
_MOST = 500
"""Examples of each set: the classifier solves a system of as many equations as there are examples."""


@dataclass(frozen=True)
class BlindBaseline:
    """What a classifier that sees texts only makes of two sets.

    Args:
        auc: The area under its ROC curve on entities that it was not trained on.
        interval: A 95 % interval; None where there are too few entities.
        entities: Number of entities in the smaller set.
    """

    auc: float
    interval: tuple[float, float] | None
    entities: int


def blind_baseline(forget: Probe, holdout: Probe, *, draws: int = 1000, seed: int = 0) -> BlindBaseline | None:
    """Train a classifier on the tokens and the lengths of questions and answers, and test it on other entities.

    It is a ridge regression on counts of tokens, weighted by how rare they are, and on the logarithm of both lengths, in
    five folds of whole entities. Ranks are taken within a fold, since scores of two folds do not compare.

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
    exchanges = [exchange for pairs in sets for exchange, _ in pairs]
    who = [[entity for _, entity in pairs] for pairs in sets]
    entities = min(len(set(names)) for names in who)
    if entities < 2:
        return None
    is_forget = np.repeat([True, False], [len(names) for names in who])
    folds = _folds(who, seed)
    ranks = _held_out_ranks(_features(exchanges), np.where(is_forget, 1.0, -1.0), folds)
    interval = auc_interval(ranks[is_forget], ranks[~is_forget], (who[0], who[1]), draws=draws, seed=seed)
    return BlindBaseline(float(places(ranks[is_forget], ranks[~is_forget]).mean()), interval, entities)


def _some(probe: Probe) -> list[tuple[Exchange, str]]:
    """At most so many answered examples, evenly spread, each with its entity."""
    assert probe.exchanges is not None
    pairs = [pair for pair in zip(probe.exchanges, probe.clusters, strict=True) if len(pair[0].answer)]
    chosen = np.linspace(0, len(pairs) - 1, min(len(pairs), _MOST)).astype(int)
    return [pairs[number] for number in chosen]


def _folds(who: Sequence[Sequence[str]], seed: int) -> NDArray[np.int64]:
    """The fold of each example. An entity is in one fold; each fold has entities of both sets."""
    generator = np.random.default_rng(seed)
    count = min(_FOLDS, *(len(set(names)) for names in who))
    fold: dict[str, int] = {}
    for names in who:
        unique = sorted(set(names))
        for place, number in enumerate(generator.permutation(len(unique))):
            fold.setdefault(unique[number], place % count)
    return np.array([fold[name] for names in who for name in names])


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


def _held_out_ranks(features: Array, target: Array, folds: NDArray[np.int64]) -> Array:
    """The rank, in its fold, of what a ridge regression on the other folds says of each example; in (0, 1)."""
    similar = features @ features.T
    ranks = np.zeros(len(target))
    for fold in np.unique(folds):
        out = folds == fold
        mean = target[~out].mean()
        weights = np.linalg.solve(similar[np.ix_(~out, ~out)] + np.eye((~out).sum()), target[~out] - mean)
        said = similar[np.ix_(out, ~out)] @ weights
        ranks[out] = places(said, said)
    return ranks
