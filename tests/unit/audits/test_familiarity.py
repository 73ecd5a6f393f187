"""The familiarity of hidden states, against loops over units; what looks like the stored is familiar."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from _membership import people, untaught
from torch import nn

from lightning_unlearn import CausalLMReadout, ClassificationReadout
from lightning_unlearn.audits import Familiarity
from lightning_unlearn.audits.membership._codes import overlap_with_closest
from lightning_unlearn.data import Probe, load_probe
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.observation import Observation
from lightning_unlearn.runtime import Misfit

ROWS = {"forget": (0, 9), "holdout": (30, 42), "retain": (60, 84)}


def probes(**rows: tuple[int, int]) -> dict[str, Probe]:
    return {split: load_probe(people(of), CausalLMReadout()) for split, of in (rows or ROWS).items()}


def observe(net: nn.Module, audit: Familiarity, of: dict[str, Probe]) -> list[Observation]:
    return audit(net, readout=CausalLMReadout(), probes=of, engine=GradientEngine(net))


def by_hand(net: nn.Module, units: int, layer: int) -> list[float]:
    """One row at a time, from Hugging Face's own hidden states, with loops."""

    def state(row: Any) -> np.ndarray:
        with torch.no_grad():
            states = net(input_ids=row["input_ids"][None], output_hidden_states=True).hidden_states[layer + 1][0]
        return states[row["labels"] != -100].double().mean(0).numpy()

    data = {split: people(rows).dataset for split, rows in ROWS.items()}
    states = {split: [state(row) for row in rows] for split, rows in data.items()}
    mean, deviation = np.mean(states["retain"], axis=0), np.std(states["retain"], axis=0)

    def winners(of: np.ndarray) -> list[int]:
        above = (of - mean) / deviation
        return [max(range(units), key=lambda k: above[q + k]) for q in range(0, len(above) // units * units, units)]

    stored = [winners(s) for s in states["retain"]]
    return [
        max(np.mean([a == b for a, b in zip(winners(s), other, strict=True)]) for other in stored)
        for s in states["forget"]
    ]


@pytest.mark.parametrize("units", [4, 7])  # 7 does not divide 64
def test_it_is_its_definition(units: int) -> None:
    net = untaught().eval()
    found = observe(net, Familiarity(["layers.0"], units=units), probes())
    (forget,) = [o for o in found if (o.metric, o.split) == ("familiarity", "forget")]
    assert forget.scores == pytest.approx(by_hand(net, units, 0), abs=1e-6)


def test_every_layer_is_read_in_one_pass_and_has_its_own_numbers() -> None:
    net = untaught()
    passes: list[int] = []
    handle = net.get_input_embeddings().register_forward_hook(lambda *_: passes.append(1))
    of = probes()
    found = observe(net, Familiarity(), of)
    handle.remove()
    assert len(passes) == sum(len(probe.batches) for probe in of.values())
    layers = {o.layer for o in found}
    assert len(layers) == len(net.model.layers)  # type: ignore[union-attr, arg-type]
    for layer in layers:
        assert sorted(o.metric for o in found if o.layer == layer) == [
            "advantage_familiarity",
            "familiarity",
            "familiarity",
            "membership_auc_familiarity",
        ]


def test_what_reads_as_the_stored_is_familiar_and_told_from_the_rest() -> None:
    """Forget rows are the stored ones under other names."""
    net = untaught()
    of = probes(forget=(60, 84), holdout=(0, 24), retain=(60, 84))
    renamed = load_probe(people((60, 84)), CausalLMReadout())
    object.__setattr__(renamed, "entities", [f"other {name}" for name in renamed.entities])
    found = observe(net, Familiarity(["layers.0"]), {**of, "forget": renamed})
    values = {(o.metric, o.split): o.value for o in found}
    assert values["familiarity", "forget"] == 1.0
    assert values["familiarity", "holdout"] < 0.95
    assert values["membership_auc_familiarity", "forget"] > 0.9
    same = observe(net, Familiarity(["layers.0"]), of)  # under their own names: they are not compared with themselves
    assert {(o.metric, o.split): o.value for o in same}["familiarity", "forget"] < 0.95


def test_codes_that_are_drawn_at_random_overlap_by_chance() -> None:
    generator = torch.Generator().manual_seed(0)
    codes, stored = (torch.randint(8, (50, 1, 4096), generator=generator) for _ in range(2))
    who = [f"e{i}" for i in range(50)]
    overlap = overlap_with_closest(codes, who, stored, [f"s{i}" for i in range(50)])
    assert overlap.mean().item() == pytest.approx(1 / 8, abs=0.02)
    assert overlap_with_closest(codes[:1], ["a"], stored[:1], ["a"]).tolist() == [[0.0]]


def test_what_it_needs_is_named() -> None:
    net, of = untaught(), probes()
    with pytest.raises(
        Misfit, match=r"what the network was trained on, as a split `retain`. Found `forget`, `holdout`"
    ):
        observe(net, Familiarity(), {split: of[split] for split in ("forget", "holdout")})
    with pytest.raises(Misfit, match="`Familiarity` should get examples .* no `holdout` among `forget`, `retain`"):
        observe(net, Familiarity(), {split: of[split] for split in ("forget", "retain")})
    loader = [(torch.zeros(2, 3), torch.tensor([0, 1]))]
    plain = {split: load_probe(loader, ClassificationReadout()) for split in of}
    with pytest.raises(Misfit, match="`Familiarity` should get a language model"):
        observe(nn.Linear(3, 2), Familiarity(), plain)
    with pytest.raises(ValueError, match="`units` should be at least 2. Found `units = 1`"):
        Familiarity(units=1)
