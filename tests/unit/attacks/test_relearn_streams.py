"""What an attacker trains on, step after step: in order, massed, shuffled, in turn with other data; and grids of attacks."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
import torch
from _attacked_network import batches, loss_of, network
from torch import nn

from lightning_unlearn import (
    AttackGrid,
    ConceptShift,
    FactSplit,
    GradientAscent,
    Noise,
    PassiveRecovery,
    Relearn,
    Unlearn,
)
from lightning_unlearn.attacks import expanded


def trained_on(attack: Relearn, given: Any, steps: int) -> list[Any]:
    return list(islice(attack.stream(given, lambda batch: batch), steps))


def both(attack: Any = (1, 2), beside: Any = "abc") -> dict[str, Any]:
    return {"attack": attack, "beside": beside}


def test_massed_is_each_batch_in_a_row_and_spaced_each_in_turn_equally_often() -> None:
    spaced = trained_on(Relearn(steps=6), "abc", 6)
    massed = trained_on(Relearn(steps=6, repeats=2), "abc", 6)
    assert "".join(spaced) == "abcabc"
    assert "".join(massed) == "aabbcc"
    assert sorted(spaced) == sorted(massed)


def test_a_shuffled_order_visits_each_batch_once_in_a_pass_and_depends_on_the_seed_alone() -> None:
    data = "abcdefgh"
    one, again, other = (trained_on(Relearn(order_seed=seed), data, 16) for seed in (0, 0, 1))
    assert one == again != other
    assert sorted(one[:8]) == sorted(one[8:]) == list(data)
    assert one[:8] != one[8:]


@pytest.mark.parametrize("frequency", [0.0, 0.01, 0.1, 1 / 3, 0.5, 0.9, 1.0])
def test_what_must_go_recurs_as_often_as_is_said_and_evenly(frequency: float) -> None:
    turns = [PassiveRecovery(frequency).has_turn(step) for step in range(1000)]
    for steps in (10, 300, 1000):
        assert abs(sum(turns[:steps]) - frequency * steps) < 1 + 1e-6


def test_each_stream_goes_on_where_it_was() -> None:
    assert trained_on(PassiveRecovery(0.5), both(), 9) == ["a", 1, "b", 2, "c", 1, "a", 2, "b"]
    assert trained_on(ConceptShift("swapped", every=2), both(), 9) == ["a", "b", 1, 2, "c", "a", 1, 2, "b"]


@pytest.mark.parametrize("mode", ["adapter", "full"])
def test_if_what_must_go_recurs_in_each_step_it_is_relearning(mode: Any) -> None:
    net, x = network().eval(), torch.randn(5, 4)
    said = []
    for attack, given in ((Relearn, batches()), (PassiveRecovery, both(batches(), ()))):
        own = {"frequency": 1.0} if attack is PassiveRecovery else {}
        with attack(steps=3, lr=0.1, mode=mode, **own)(net, batches=given, loss=loss_of(net)) as points:
            list(points)
            said.append(net.eval()(x))
    assert torch.equal(*said)


def test_other_data_are_read_one_by_one_and_never_kept() -> None:
    read: list[int] = []

    class Endless:
        def __iter__(self) -> Any:
            for number in range(10**9):
                read.append(number)
                yield number

    trained_on(PassiveRecovery(0.5), both(beside=Endless()), 6)
    assert read == [0, 1, 2]


@pytest.mark.parametrize(
    ("beside", "match"), [((), "Found none in any data"), (iter("a"), "Found none in a second pass over the data")]
)
def test_other_data_that_are_gone_are_said(beside: Any, match: str) -> None:
    with pytest.raises(ValueError, match=f"`retain` beside the attacker's should have batches. {match}"):
        trained_on(PassiveRecovery(0.1), both(beside=beside), 5)


def moved(net: nn.Module, attack: Relearn) -> set[str]:
    """The parameters, or layers with an adapter, that training moves."""
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    layers = {name: m for name, m in net.named_modules() if isinstance(m, nn.Linear)}
    inputs = {name: torch.randn(6, m.in_features) for name, m in layers.items()}
    plain = {name: m(inputs[name]).detach() for name, m in layers.items()}
    with attack(net, batches=batches(), loss=loss_of(net)) as points:
        list(points)
        heard = {name: m(inputs[name]).detach() for name, m in layers.items()}
        changed = {name for name, p in net.named_parameters() if not torch.equal(p, before[name])}
    return changed | {name for name in layers if not torch.equal(heard[name], plain[name])}


def test_only_the_layers_that_are_named_move() -> None:
    net = network().eval()
    assert moved(net, Relearn(steps=3, lr=0.1, layers=["4"])) == {"4"}
    assert moved(net, Relearn(steps=3, lr=0.1, mode="full", layers=["0"])) == {"0.weight", "0.bias", "0"}
    assert moved(net, Relearn(steps=3, lr=0.1, mode="full", layers=["*.bias"])) == {
        "0.bias",
        "1.bias",
        "4.bias",
        "0",
        "4",
    }


def test_the_share_is_of_what_was_to_be_reached() -> None:
    net = network()
    assert Relearn(layers=["4"]).share_reached(net) == Relearn(mode="full", layers=["4"]).share_reached(net) == 1
    net[4].weight.requires_grad_(False)
    assert Relearn(mode="full", layers=["4"]).share_reached(net) == 0


def test_layers_that_are_not_there_are_refused_with_those_that_are() -> None:
    with pytest.raises(ValueError, match=r"Found none with `layers = \['mlp'\]`. There are `0.weight`, `0.bias`"):
        Relearn(layers=["mlp"])(network(), batches=batches(), loss=lambda b: b).__enter__()


def test_a_grid_is_every_combination_each_by_its_name() -> None:
    grid = AttackGrid(Relearn(steps=7, mode="full"), {"lr": [1e-4, 0.5], "order_seed": [0, 3]})
    cells = expanded({"noise": Noise(), "full": grid})
    assert list(cells) == [
        "noise",
        "full_lr0.0001_order_seed0",
        "full_lr0.0001_order_seed3",
        "full_lr0.5_order_seed0",
        "full_lr0.5_order_seed3",
    ]
    cell: Any = cells["full_lr0.5_order_seed3"]
    assert (cell.steps, cell.mode, cell.lr, cell.order_seed, cell.of_grid) == (7, "full", 0.5, 3, "full")


def test_a_grid_of_an_inherited_setting() -> None:
    grid = AttackGrid(PassiveRecovery(steps=4, beside="news"), {"frequency": [0.1, 1.0], "lr": [0.1]})
    cells: Any = grid.named("p")
    assert {(c.frequency, c.lr, c.steps, c.beside) for c in cells.values()} == {
        (0.1, 0.1, 4, "news"),
        (1.0, 0.1, 4, "news"),
    }


@pytest.mark.parametrize(
    ("act", "match"),
    [
        (lambda: AttackGrid(Relearn(), {}), "`over` should be lists of values by setting"),
        (lambda: AttackGrid(Relearn(), {"lr": []}), r"`over\['lr'\]` should be a list of values"),
        (lambda: AttackGrid(Relearn(), {"rate": [1.0]}), "Found `rate`, which is none of `steps`, `lr`"),
        (lambda: AttackGrid(Relearn(), {"lr": [0.1, -1.0]}), "`lr` should be positive"),
        (lambda: AttackGrid(Relearn(), {"lr": [0.1, 0.1]}), "should differ. Found a value more than once"),
        (
            lambda: expanded({"a_lr0.1": Relearn(), "a": AttackGrid(Relearn(), {"lr": [0.1]})}),
            "Found `a_lr0.1` twice",
        ),
        (lambda: PassiveRecovery(1.5), "`frequency` should be between 0 and 1"),
        (lambda: ConceptShift("swapped", every=0), "`every` should be at least 1"),
        (lambda: Relearn(repeats=0), "`repeats` should be at least 1"),
        (lambda: Relearn(order_seed=-1), "`order_seed` should be at least 0"),
        (lambda: Relearn(layers="mlp"), "`layers` should be a list of patterns"),  # type: ignore[arg-type]
        (lambda: Relearn(layers=[]), "`layers` should be a list of patterns"),
        (
            lambda: Unlearn(GradientAscent(), under={"a": Relearn(data="news")}),
            "Found `data = 'news'`, which is for attacks of",
        ),
        (lambda: Unlearn(GradientAscent(), under={"a": Relearn(facts=FactSplit())}), "Found `facts = FactSplit"),
        (lambda: Unlearn(GradientAscent(), under={"a": ConceptShift("swapped")}), "Found `beside = 'swapped'`"),
    ],
)
def test_wrong_settings_are_refused(act: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        act()


def test_the_curve_is_spaced_by_the_logarithm_to_a_thousand_and_beyond() -> None:
    assert Relearn(steps=2000).grid() == [0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000]


def test_no_more_batches_are_read_than_are_trained_on() -> None:
    read = [Relearn(steps=10), Relearn(steps=10, batches=3), Relearn(steps=10, repeats=4), Relearn(steps=0)]
    assert [attack.batches_read() for attack in read] == [10, 3, 3, 1]
    assert Relearn(steps=10, order_seed=0).batches_read() is None
