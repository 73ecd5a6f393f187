"""Probes of a layer: what they find, what they do not, and the edit that makes a published audit say "erased"."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor

from lightning_unlearn.audits import probe_layers
from lightning_unlearn.audits.inside._pools import disjoint_pools

N = 30


def pairs(
    signal: float, *, n: int = N, width: int = 64, equalised: bool = False, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """``n`` pairs. The signal is along one direction, in standard deviations."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(2 * n, width, generator=generator)
    labels = torch.arange(2 * n) % 2 == 0
    states[labels, 0] += signal
    if equalised:
        states[labels] -= states[labels].mean(0) - states[~labels].mean(0)
    return states, labels


def probed(states: Tensor, labels: Tensor, **kwargs: int) -> str:
    entities = list(map(str, range(len(labels))))
    return probe_layers(states[None], labels, entities, hidden=8, permutations=200, **kwargs).layers[0].verdict


def leave_one_pair_out(states: Tensor, labels: Tensor) -> float:
    """The accuracy that was published as erasure: fit to all pairs but one, by their mean difference, and test on it."""
    right = 0
    for pair in range(len(labels) // 2):
        held = torch.arange(len(labels)) // 2 == pair
        means = [states[~held & (labels == label)].mean(0) for label in (True, False)]
        direction, middle = means[0] - means[1], (means[0] + means[1]) / 2
        right += int((((states[held] - middle) @ direction > 0) == labels[held]).sum())
    return right / len(labels)


@pytest.mark.parametrize(("n", "width"), [(7, 64), (7, 512), (30, 512)])
@pytest.mark.parametrize("signal", [0.0, 3.0])
def test_means_equalised_on_the_pool_read_as_erased_elsewhere_and_as_invalid_here(
    n: int, width: int, signal: float
) -> None:
    states, labels = pairs(signal, n=n, width=width, equalised=True)
    assert leave_one_pair_out(states, labels) < 0.1  # the artefact: below chance, whether there is a signal or not
    assert probed(states, labels) == "invalid: edited on probe pool"


def test_means_equalised_on_one_half_alone_are_noticed_too() -> None:
    """The edit knows only the rows that judge: the probe, fitted to the others, would fall to chance."""
    states, labels = pairs(6.0)
    entities = list(map(str, range(2 * N)))
    judged = disjoint_pools(labels, entities, torch.Generator().manual_seed(0)).judged
    of_judged, theirs = states[judged].clone(), labels[judged]
    of_judged[theirs] -= of_judged[theirs].mean(0) - of_judged[~theirs].mean(0)
    states[judged] = of_judged
    assert probed(states, labels) == "invalid: edited on probe pool"


def test_a_signal_is_detected_and_noise_is_not_called_erased() -> None:
    found = Counter(probed(*pairs(6.0, width=16, seed=seed)) for seed in range(3))
    assert found == {"signal detected": 3}
    noise = Counter(probed(*pairs(0.0, width=16, seed=seed)) for seed in range(8))
    assert noise["no signal found"] >= 7
    assert noise["invalid: edited on probe pool"] == 0


def test_a_signal_that_is_turned_round_between_pools_is_a_signal() -> None:
    """A probe below chance has found something: whoever flips it reads it."""
    states, labels = pairs(0.0, width=8)
    entities = list(map(str, range(2 * N)))
    pools = disjoint_pools(labels, entities, torch.Generator().manual_seed(0))
    side = torch.where(labels, 2.0, -2.0)
    states[pools.fit, 0] += side[pools.fit]
    states[pools.judged, 0] -= side[pools.judged]
    found = probe_layers(states[None], labels, entities, hidden=8).layers[0]
    assert found.auc > 0.9
    assert found.verdict == "signal detected" or found.verdict.startswith("invalid")


def test_what_only_a_hidden_layer_reads_is_read_by_it() -> None:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(400, 2, generator=generator)
    labels = states.prod(1) > 0
    found = probe_layers(states[None], labels, list(map(str, range(400)))).layers[0]
    assert found.mlp_auc > 0.9
    assert found.auc < 0.65


def test_no_entity_is_in_both_pools_and_its_rows_count_once() -> None:
    """Twenty copies of four people are still four people: nothing can be shown with them."""
    generator = torch.Generator().manual_seed(0)
    people = torch.randn(4, 32, generator=generator)
    labels = torch.tensor([True, True, False, False]).repeat_interleave(20)
    states = people.repeat_interleave(20, 0) + 0.01 * torch.randn(80, 32, generator=generator)
    entities = [f"person {i}" for i in range(4) for _ in range(20)]
    pools = disjoint_pools(labels, entities, torch.Generator().manual_seed(0))
    assert not {entities[i] for i in pools.fit} & {entities[i] for i in pools.judged}
    assert probe_layers(states[None], labels, entities).layers[0].verdict == "no signal found"


def test_selectivity_takes_off_what_random_labels_reach() -> None:
    noise = [probe_layers(pairs(0.0, seed=s)[0][None], *_labels(), hidden=8).layers[0].selectivity for s in range(4)]
    signal = probe_layers(pairs(6.0, width=16)[0][None], *_labels(), hidden=8).layers[0].selectivity
    assert abs(sum(noise) / 4) < 0.08
    assert signal > 0.3


def _labels() -> tuple[Tensor, list[str]]:
    return torch.arange(2 * N) % 2 == 0, list(map(str, range(2 * N)))


def test_more_layers_of_noise_do_not_make_a_find() -> None:
    labels, entities = _labels()
    for seed in range(2):
        layers = torch.randn(12, 2 * N, 16, generator=torch.Generator().manual_seed(seed))
        found = probe_layers(layers, labels, entities, hidden=4, permutations=200)
        assert max(layer.auc for layer in found.layers) > 0.55  # the best of twelve looks like something
        assert found.p_value > 0.05
        assert {layer.verdict for layer in found.layers} == {"no signal found"}


def test_it_is_the_same_each_time_and_leaves_random_numbers_alone() -> None:
    (states, labels), before = pairs(1.0), torch.get_rng_state()
    one, other = (probe_layers(states[None], labels, _labels()[1], hidden=4) for _ in range(2))
    assert one == other
    assert torch.equal(torch.get_rng_state(), before)


def test_pools_that_cannot_be_disjoint_are_refused() -> None:
    states = torch.zeros(1, 4, 2)
    with pytest.raises(ValueError, match="different entities. Found `Ada` in both"):
        probe_layers(states, torch.tensor([True, True, False, False]), ["Ada", "Bo", "Ada", "Cy"])
    with pytest.raises(ValueError, match="at least two entities on each side.*Found 1"):
        probe_layers(states, torch.tensor([True, True, False, False]), ["Ada", "Ada", "Bo", "Cy"])
