"""Can two groups be told apart by scores? Areas under curves, with a null by whole clusters, and the way it goes wrong."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_unlearn.functional.logistic import standardise

EQUALISED = 0.05
"""Class means this much closer than chance has them (squared distance, as a share) were made equal by somebody."""


def midranks(scores: Tensor) -> Tensor:
    """Rank of each entry in its row, counted from 1; equal entries share the mean of their ranks.

    Args:
        scores: ``[L, n]``.

    Example:
        >>> midranks(torch.tensor([[0.5, 0.1, 0.5]]))
        tensor([[2.5000, 1.0000, 2.5000]], dtype=torch.float64)
    """
    scores = scores.contiguous()
    ordered = scores.sort(1).values
    below, up_to = (torch.searchsorted(ordered, scores, right=right) for right in (False, True))
    return (below + up_to + 1).double() / 2


def areas_under_curves(scores: Tensor, labels: Tensor) -> Tensor:
    r"""Area under the ROC curve of each row of scores, for each labelling.

    .. math:: \frac{\sum_{y_i = 1} r_i - n_1 (n_1 + 1) / 2}{n_1 n_0}

    with midranks :math:`r`: the share of pairs in which the positive one has the higher score, ties counted half.

    Args:
        scores: ``[L, n]``.
        labels: Which are positive, ``[P, n]`` bool; some, but not all, in each row.

    Returns:
        ``[P, L]`` float64.

    Example:
        >>> areas_under_curves(torch.tensor([[0.9, 0.2, 0.5]]), torch.tensor([[True, False, False]]))
        tensor([[1.]], dtype=torch.float64)
    """
    positive = labels.double()
    ones = positive.sum(1, keepdim=True)
    return (positive @ midranks(scores).T - ones * (ones + 1) / 2) / (ones * (labels.shape[1] - ones))


def folded(area: Tensor) -> Tensor:
    """The area under the curve read in whichever direction tells more: below chance is a signal, too.

    Example:
        >>> folded(torch.tensor([0.1, 0.5, 0.7]))
        tensor([0.9000, 0.5000, 0.7000])
    """
    return torch.maximum(area, 1 - area)


def shuffled_by_cluster(labels: Tensor, clusters: Sequence[str], count: int, generator: torch.Generator) -> Tensor:
    """Labellings in which whole clusters have exchanged their labels: rows of one cluster are not independent.

    Args:
        labels: ``[n]`` bool, the same throughout a cluster.
        clusters: The cluster of each row.
        count: Number of labellings, ``P``.
        generator: Where randomness comes from.

    Returns:
        ``[P, n]`` bool.

    Example:
        >>> shuffled_by_cluster(torch.tensor([True, True, False]), ["a", "a", "b"], 1, torch.Generator()).shape
        torch.Size([1, 3])
    """
    number = {name: place for place, name in enumerate(dict.fromkeys(clusters))}
    of_row = torch.tensor([number[name] for name in clusters])
    of_cluster = torch.zeros(len(number), dtype=torch.bool)
    of_cluster[of_row] = labels
    return of_cluster[torch.rand(count, len(number), generator=generator, dtype=torch.float32).argsort(1)][:, of_row]


def resampled_areas(
    scores: Tensor, labels: Tensor, clusters: Sequence[str], count: int, generator: torch.Generator
) -> Tensor:
    """Areas under the curve of samples of whole clusters, drawn with replacement among the positive, and the negative ones.

    Args:
        scores: ``[n]``.
        labels: ``[n]`` bool, the same throughout a cluster.
        clusters: The cluster of each row.
        count: Number of samples, ``B``.
        generator: Where randomness comes from.

    Returns:
        ``[B]`` float64, for percentiles.

    Example:
        >>> resampled_areas(torch.tensor([2.0, 1.0]), torch.tensor([True, False]), ["a", "b"], 2, torch.Generator())
        tensor([1., 1.], dtype=torch.float64)
    """
    members = [_members(clusters, labels == kind) for kind in (True, False)]
    apart = scores[labels].double()[:, None] - scores[~labels].double()
    # Pairs of rows are counted once, by pairs of clusters: a sample then only weighs these.
    won, of = (
        members[0] @ each @ members[1].T for each in ((apart > 0).double() + (apart == 0) / 2, torch.ones_like(apart))
    )
    drawn = [_drawn(len(each), count, generator) for each in members]
    sums = [torch.einsum("bi,ij,bj->b", drawn[0], each, drawn[1]) for each in (won, of)]
    return sums[0] / sums[1]


def _members(clusters: Sequence[str], rows: Tensor) -> Tensor:
    """Which of ``rows`` belong to each of their clusters, ``[C, number of rows]`` of zeros and ones."""
    names = [name for name, row in zip(clusters, rows, strict=True) if row]
    number = {name: place for place, name in enumerate(dict.fromkeys(names))}
    return torch.nn.functional.one_hot(torch.tensor([number[name] for name in names])).T.double()


def _drawn(size: int, count: int, generator: torch.Generator) -> Tensor:
    """How often each of ``size`` is in a sample with replacement, ``[count, size]``."""
    places = torch.randint(size, (count, size), generator=generator)
    return torch.zeros(count, size, dtype=torch.float64).scatter_add_(1, places, torch.ones_like(places).double())


def permutation_p_values(observed: Tensor, null: Tensor) -> tuple[Tensor, float]:
    """How often chance alone gives as much as was observed: in each row, and in the best of them.

    The second takes account of the choice of the best: it compares with the largest of each labelling.

    Args:
        observed: ``[L]``, larger for more of a signal.
        null: The same under shuffled labels, ``[P, L]``.

    Returns:
        ``[L]``, and a number. Never 0: what was observed counts as one of the labellings.

    Example:
        >>> permutation_p_values(torch.tensor([0.9]), torch.tensor([[0.5], [0.6], [0.95]]))
        (tensor([0.5000], dtype=torch.float64), 0.5)
    """
    single = (1 + (null >= observed).sum(0)).double() / (1 + len(null))
    largest = (1 + (null.amax(1) >= observed.amax()).sum()).double() / (1 + len(null))
    return single, float(largest)


def are_equalised(states: Tensor, labels: Tensor, shuffled: Tensor) -> bool:
    r"""Whether the means of two classes are closer than those of any random halves would be: somebody edited this pool.

    Even without a signal, means of finite samples differ. If they are made equal on the very pool that a probe is tested
    on, a probe fitted to the rest of it falls below chance, and one fitted elsewhere falls to chance, though the signal is
    untouched.

    Args:
        states: ``[n, D]``.
        labels: ``[n]`` bool.
        shuffled: Labellings of chance, ``[P, n]`` bool.

    Example:
        >>> states = torch.randn(40, 16, generator=torch.Generator().manual_seed(0))
        >>> labels = torch.arange(40) % 2 == 0
        >>> chance = shuffled_by_cluster(labels, list(map(str, range(40))), 50, torch.Generator().manual_seed(1))
        >>> are_equalised(states, labels, chance)
        False
        >>> states[labels] -= states[labels].mean(0) - states[~labels].mean(0)
        >>> are_equalised(states, labels, chance)
        True
    """
    x = states.double() / standardise(states.double())[1]
    all_labels = torch.cat([labels[None], shuffled]).double()
    ones = all_labels.sum(1, keepdim=True)
    weights = all_labels / ones - (1 - all_labels) / (labels.numel() - ones)
    distance = (weights @ x).square().sum(1)
    chance = distance[1:]
    # Both: in few directions chance alone is near zero now and then, but not below all of its own kind.
    return bool(distance[0] < EQUALISED * chance.median() and distance[0] <= chance.min() * (1 + 1e-9))


def ridge_scores(fit: Tensor, targets: Tensor, judged: Tensor) -> Tensor:
    r"""Scores of linear probes: ridge regressions on standardised states, one for each column of targets.

    .. math:: f(x) = x^\top X^\top (X X^\top + \lambda I)^{-1} (y - \bar y), \quad \lambda = \operatorname{tr}(X X^\top) / n

    in closed form, so that every fit of the same states is the same, and many labellings cost as much as one.

    Args:
        fit: States that the probes are fitted to, ``[n, D]``.
        targets: ``[n, T]``.
        judged: Other states, ``[m, D]``.

    Returns:
        ``[m, T]`` float64.

    Example:
        >>> ridge_scores(torch.tensor([[-1.0], [1.0]]), torch.tensor([[0.0], [1.0]]), torch.tensor([[3.0]])) > 0
        tensor([[True]])
    """
    mean, scale = standardise(fit.double())
    x, new = ((states.double() - mean) / scale for states in (fit, judged))
    y = targets.double() - targets.double().mean(0)
    products = x @ x.T
    penalty = (products.trace() / len(x)).clamp_min(1e-12) * torch.eye(len(x), dtype=torch.float64)
    weights: Tensor = torch.linalg.solve(products + penalty, y)
    return new @ x.T @ weights
