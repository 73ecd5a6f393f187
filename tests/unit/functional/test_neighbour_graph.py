"""The graph of a loop that shows one sample after the other; points between classes lie where they should."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from lightning_unlearn.functional.neighbour_graph import mixed_prototypes, neighbour_graph


def draws(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def one_after_the_other(features: Tensor, codes: Tensor, neighbours: int, decay: float) -> Tensor:
    """As the authors describe it, sample by sample."""
    graph = [[0.0] * len(codes) for _ in codes]
    for x in features.tolist():
        distances = [sum((a - b) ** 2 for a, b in zip(x, code, strict=True)) for code in codes.tolist()]
        winner, *others = sorted(range(len(codes)), key=distances.__getitem__)
        for other in others:
            graph[winner][other] = 1.0 if other in others[:neighbours] else graph[winner][other] * decay
            if graph[winner][other] < decay**10 * (1 - 1e-9):
                graph[winner][other] = 0.0
    return torch.tensor([[max(graph[i][j], graph[j][i]) for j in range(len(codes))] for i in range(len(codes))])


@pytest.mark.parametrize("decay", [0.5, 0.9])
@pytest.mark.parametrize("neighbours", [1, 2, 4])
@pytest.mark.parametrize("samples", [0, 1, 7, 120])
def test_equals_the_loop_over_samples(samples: int, neighbours: int, decay: float) -> None:
    features, codes = draws(0, samples, 3), draws(1, 6, 3)
    expected = one_after_the_other(features, codes, neighbours, decay)
    assert_close(neighbour_graph(features, codes, neighbours=neighbours, decay=decay), expected)


def test_an_edge_that_is_not_confirmed_in_ten_wins_is_gone() -> None:
    codes = torch.tensor([[0.0], [1.0], [-1.0]])
    to_the_right, to_the_left = torch.tensor([[0.1]]), torch.tensor([[-0.1]])
    for wins, edge in ((10, 0.9**10), (11, 0.0)):
        graph = neighbour_graph(torch.cat([to_the_right, *[to_the_left] * wins]), codes, neighbours=1)
        assert_close(graph[0], torch.tensor([0.0, edge, 1.0]))


def mixed(low: float, labels: Tensor, graph: Tensor, seed: int = 0) -> Tensor:
    return mixed_prototypes(torch.eye(3), graph, labels, low=low, generator=torch.Generator().manual_seed(seed))


CHAIN = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.2], [0.0, 0.2, 0.0]])


def test_a_share_of_one_gives_the_prototypes() -> None:
    labels = torch.tensor([0, 1, 2, 1])
    assert torch.equal(mixed(1.0, labels, CHAIN), torch.eye(3)[labels])


def test_points_are_between_a_class_and_one_of_its_neighbours() -> None:
    labels = torch.arange(3).repeat(200)
    points = mixed(0.5, labels, CHAIN)
    assert_close(points.sum(1), torch.ones(600))
    own = points[torch.arange(600), labels]
    assert own.min() >= 0.5
    assert (points[labels == 0][:, 2] == 0).all()  # no edge from the first to the last
    assert (points[labels == 2][:, 0] == 0).all()
    assert {int(row[[0, 2]].argmax()) for row in points[labels == 1]} == {0, 1}  # both neighbours of the middle one


def test_a_class_without_an_edge_is_its_prototype() -> None:
    labels = torch.tensor([2, 2])
    alone = CHAIN.index_fill(0, torch.tensor([2]), 0).index_fill(1, torch.tensor([2]), 0)
    assert torch.equal(mixed(0.0, labels, alone), torch.eye(3)[labels])
