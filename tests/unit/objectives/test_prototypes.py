"""Prototypes: what they are, how far embeddings are from them, and where nothing pulls."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from _modules import CLASSES, SomebodysModule, loader, quiet, same
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from lightning_unlearn import EmbeddingReadout, FindPrototypes, GradientAscent, Prediction, Unlearn
from lightning_unlearn.objectives import PrototypePull, PrototypePush


def seen(features: Tensor, labels: list[int]) -> Prediction:
    example = torch.arange(len(labels))
    return Prediction(features[:, :0], torch.tensor(labels), example, batch_size=len(labels), features=features)


@pytest.fixture
def features() -> Tensor:
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()


PROTOTYPES, KNOWN = torch.randn(3, 4, generator=torch.Generator().manual_seed(1)), torch.tensor([2, 5, 9])
LABELS = [5, 2, 2, 9, 5]


def aimed(objective: Any) -> Any:
    objective.aim(PROTOTYPES, KNOWN)
    return objective


def by_hand(features: Tensor) -> Tensor:
    """`F.kl_div` by its `batchmean`, as in the authors' code."""
    rows = PROTOTYPES[[KNOWN.tolist().index(label) for label in LABELS]]
    return F.kl_div(features.log_softmax(-1), rows.softmax(-1), reduction="batchmean")


def test_the_distance_is_the_published_one(features: Tensor) -> None:
    assert_close(aimed(PrototypePull())(seen(features, LABELS)), by_hand(features))
    assert_close(aimed(PrototypePush(bound=9.0))(seen(features, LABELS)), (9.0 - by_hand(features)).relu())


def test_beyond_the_bound_the_gradient_is_exactly_zero(features: Tensor) -> None:
    bound = by_hand(features).item() - 0.01
    aimed(PrototypePush(bound=bound))(seen(features, LABELS)).backward()
    assert not features.grad.any()


def test_push_and_pull_go_opposite_ways(features: Tensor) -> None:
    (push,) = torch.autograd.grad(aimed(PrototypePush(bound=50.0))(seen(features, LABELS)), features)
    (pull,) = torch.autograd.grad(aimed(PrototypePull())(seen(features, LABELS)), features)
    assert_close(push, -pull)
    assert pull.any()


def test_an_embedding_that_is_its_own_prototype_is_not_pushed_at_all() -> None:
    """The trap of classes of one example."""
    own = PROTOTYPES.clone().requires_grad_()
    aimed(PrototypePush(bound=5.0))(seen(own, [2, 5, 9])).backward()
    assert own.grad.abs().max() < 1e-7


def test_rows_of_unknown_classes_do_not_count(features: Tensor) -> None:
    pull = aimed(PrototypePull())
    with_others = torch.cat([features, torch.full((3, 4), 1e3)])
    assert_close(pull(seen(with_others, [*LABELS, 1, 7, 11])), by_hand(features))
    assert pull(seen(features, [1] * 5)) == 0


def test_a_batch_without_rows_has_a_loss_of_zero_and_a_graph() -> None:
    empty = torch.empty(0, 4, requires_grad=True)
    loss = aimed(PrototypePush(bound=3.0))(seen(empty, []))
    loss.backward()
    assert loss == 0


def test_what_is_missing_is_said(features: Tensor) -> None:
    with pytest.raises(ValueError, match="`PrototypePull` should know the prototypes of classes. Found none"):
        PrototypePull()(seen(features, LABELS))
    with pytest.raises(ValueError, match="embeddings as wide as its prototypes, 4. Found 2"):
        aimed(PrototypePull())(seen(features[:, :2], LABELS))


def test_prototypes_are_in_the_state() -> None:
    other = PrototypePull()
    other.load_state_dict(aimed(PrototypePull()).state_dict())
    assert torch.equal(other.prototypes, PROTOTYPES)
    assert torch.equal(other.classes, KNOWN)


# EmbeddingReadout


def test_embeddings_are_what_goes_into_the_last_layer_of_supervised_examples() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv1d(1, 2, 3), nn.Flatten(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 3))
    batch = torch.randn(4, 1, 8), torch.tensor([0, -100, 2, 1])
    read = EmbeddingReadout()(network, batch)
    assert_close(read.features, network[:4](batch[0])[[0, 2, 3]])
    assert_close(read.logits, network(batch[0])[[0, 2, 3]])
    assert_close(EmbeddingReadout("1")(network, batch).features, network[0](batch[0])[[0, 2, 3]].flatten(1))
    assert not network[4]._forward_pre_hooks
    with pytest.raises(ValueError, match="Found none for 'head'. It has `2`, `4`"):
        EmbeddingReadout("head")(network, batch)
    twice = nn.Sequential(layer := nn.Linear(3, 3), layer)
    with pytest.raises(ValueError, match="should be called once"):
        EmbeddingReadout()(twice, (torch.randn(2, 3), torch.tensor([0, 1])))


# FindPrototypes


def fit(*callbacks: Any, **kwargs: Any) -> Any:
    module = SomebodysModule()
    quiet(callbacks=list(callbacks), **{"max_steps": 2, **kwargs}).fit(module, loader(seed=1))
    return module


def test_it_finds_the_means_of_the_original_and_keeps_them() -> None:
    forget = loader(seed=2, n=20)
    unlearn = Unlearn(PrototypePush(bound=3.0), forget=forget, readout=EmbeddingReadout())
    fit(unlearn, FindPrototypes(), max_steps=4)
    inputs, labels = forget.dataset.tensors
    with torch.no_grad():
        embeddings = SomebodysModule().body(inputs)
    assert unlearn.objective.classes.tolist() == sorted(set(labels.tolist()))
    for row, label in zip(unlearn.objective.prototypes, unlearn.objective.classes, strict=True):
        assert_close(row, embeddings[labels == label].mean(0))


def test_finding_moves_nothing_of_the_fit() -> None:
    """As a fit whose objective has been given the same prototypes by hand."""
    found, given = (Unlearn(PrototypePush(3.0), forget=loader(seed=2), readout=EmbeddingReadout()) for _ in range(2))
    one = fit(found, FindPrototypes())
    given.objective.aim(found.objective.prototypes, found.objective.classes)
    other = fit(given)
    assert one.losses == other.losses
    assert same(one, other)


def test_a_second_fit_finds_them_anew() -> None:
    unlearn = Unlearn(PrototypePush(bound=3.0), forget=loader(seed=2), readout=EmbeddingReadout())
    find, module = FindPrototypes(), SomebodysModule()
    found = []
    for _ in range(2):
        quiet(callbacks=[unlearn, find], max_steps=2).fit(module, loader(seed=1))
        found.append(unlearn.objective.prototypes.clone())
    assert not torch.equal(*found)


def test_classes_of_one_example_are_warned_of() -> None:
    inputs = torch.randn(CLASSES, 8, generator=torch.Generator().manual_seed(0))
    single = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(inputs, torch.arange(CLASSES)), batch_size=2)
    unlearn = Unlearn(PrototypePush(bound=3.0), forget=single, readout=EmbeddingReadout())
    with pytest.warns(UserWarning, match=f"Found one example of {CLASSES} of {CLASSES} classes, 0 first"):
        fit(unlearn, FindPrototypes())


def test_without_an_objective_to_serve_it_says_so() -> None:
    with pytest.raises(ValueError, match="should find an `Unlearn` by `PrototypePush` or `PrototypePull`"):
        fit(Unlearn(GradientAscent(), forget=loader(seed=2)), FindPrototypes())
