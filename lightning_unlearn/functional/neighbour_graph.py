"""Which classes lie beside each other, and points between them."""

from __future__ import annotations

import torch
from torch import Tensor

OLDEST = 10
"""An edge that was not confirmed in as many wins is gone."""


def neighbour_graph(features: Tensor, codes: Tensor, *, neighbours: int = 2, decay: float = 0.9) -> Tensor:
    """The neural-gas graph of some code vectors, after all samples were shown once, in order.

    A sample is won by the code vector that is nearest to it. The winner's edges to the ``neighbours`` next ones become 1;
    its other edges are multiplied by ``decay``, and are gone after ten wins without them. An edge counts from both sides.

    **Unlike the authors' code**, samples of one batch that share a winner are taken one after the other.

    Args:
        features: Samples, ``[N, D]``.
        codes: A vector per class, ``[C, D]``.
        neighbours: How many edges a sample confirms.
        decay: Factor on the others, in (0, 1).

    Returns:
        Strengths of edges, ``[C, C]``, symmetric, zero on the diagonal.

    Example:
        >>> codes = torch.tensor([[0.0], [1.0], [5.0]])
        >>> neighbour_graph(torch.tensor([[0.1]]), codes, neighbours=1)
        tensor([[0., 1., 0.],
                [1., 0., 0.],
                [0., 0., 0.]])

    References:
        Malepathirana et al., NAPA-VQ, ICCV 2023, and its code, with 15 neighbours of up to 200 classes.
    """
    count = len(codes)
    order = torch.cdist(features.double(), codes.double()).argsort(1)[:, : neighbours + 1]
    graph = torch.zeros(count, count, dtype=torch.float32)
    for winner in range(count):
        won = order[order[:, 0] == winner, 1:]
        if not len(won):
            continue
        confirmed = torch.zeros(len(won), count, dtype=torch.bool).scatter_(1, won.cpu(), True)
        # How many wins ago each edge was confirmed last.
        age = confirmed.flip(0).int().argmax(0)
        graph[winner] = torch.where(confirmed.any(0) & (age <= OLDEST), decay ** age.float(), torch.zeros(()))
    return torch.maximum(graph, graph.T)


def mixed_prototypes(
    prototypes: Tensor, graph: Tensor, labels: Tensor, *, low: float, generator: torch.Generator
) -> Tensor:
    r"""Points on the way from the prototype of each label to that of a neighbour, nearer to the first.

    .. math:: \tilde p = \gamma \, p_y + (1 - \gamma) \, p_n, \qquad \gamma \sim U(\text{low}, 1)

    with a neighbour :math:`n` drawn from the edges of :math:`y`. A class without an edge gives its prototype.

    Args:
        prototypes: The mean of each class, ``[C, D]``.
        graph: Of :func:`neighbour_graph`.
        labels: Of the points, ``[N]``.
        low: In [0, 1]; 1 gives the prototypes.
        generator: Of the draws, on the CPU.

    Example:
        >>> line, both = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        >>> mixed_prototypes(line, both, torch.tensor([0, 1]), low=1.0, generator=torch.Generator())
        tensor([[0.],
                [1.]])
    """
    alone = torch.eye(len(graph)) * (graph.sum(1, keepdim=True) == 0)
    drawn = torch.multinomial((graph > 0).float()[labels] + alone[labels], 1, generator=generator)[:, 0]
    gamma = low + (1 - low) * torch.rand(len(labels), 1, generator=generator, dtype=torch.float32)
    return gamma * prototypes[labels] + (1 - gamma) * prototypes[drawn]
