"""The norm is that of autograd on the example alone; learned examples have a short one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from _language_models import batch, family
from _membership import people_probes, taught, untaught
from torch import nn

from lightning_unlearn import CausalLMReadout, ClassificationReadout
from lightning_unlearn.audits import GradientNorm
from lightning_unlearn.data import load_probe
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.observation import Observation
from lightning_unlearn.readouts import Readout
from lightning_unlearn.runtime import Misfit


def observe(net: nn.Module, readout: Readout, audit: GradientNorm | None = None, **loaders: Any) -> list[Observation]:
    probes = {split: load_probe(loader, readout) for split, loader in loaders.items()}
    audit = audit or GradientNorm()
    return audit(net, readout=readout, probes=probes, engine=GradientEngine(net))


def norms(found: list[Observation], split: str) -> list[float]:
    (o,) = [o for o in found if (o.metric, o.split) == ("gradient_norm", split)]
    assert not o.higher_means_known
    return o.scores


def alone(net: nn.Module, row: dict[str, torch.Tensor]) -> float:
    """The norm for one row, without padding, from Hugging Face's own loss."""
    kept = row["attention_mask"].bool()
    loss = net(input_ids=row["input_ids"][kept][None], labels=row["labels"][kept][None]).loss
    grads = torch.autograd.grad(loss, [p for p in net.parameters() if p.requires_grad], allow_unused=True)
    return float(torch.cat([g.flatten().double() for g in grads if g is not None]).norm())


@pytest.mark.parametrize("lora", [False, True], ids=["plain", "adapter"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_it_is_autograds_of_the_row_alone_and_a_row_without_an_answer_has_none(lora: bool, side: str) -> None:
    net = family("llama", lora=lora).eval()
    whole = batch(side)  # the last of three rows is all prompt
    found = norms(observe(net, CausalLMReadout(), forget=[whole], holdout=[batch()]), "forget")
    rows = [{name: value[i] for name, value in whole.items()} for i in range(2)]
    assert found == pytest.approx([alone(net, row) for row in rows], rel=1e-4)


def test_batches_that_cannot_be_cut_give_the_same() -> None:
    class Whole(Readout):
        """Of batches with further numbers beside the examples."""

        def __call__(self, network: nn.Module, batch: Any) -> Any:
            return ClassificationReadout()(network, batch[:2])

        def keys(self, batch: Any) -> list[str]:
            return ClassificationReadout().keys(batch[:2])

    torch.manual_seed(0)
    net = nn.Linear(3, 4)
    inputs, labels, other = torch.randn(5, 3), torch.tensor([0, 1, 2, 3, 0]), torch.zeros(7)
    plain = observe(net, ClassificationReadout(), forget=[(inputs, labels)], holdout=[(inputs, labels)])
    uncut = observe(net, Whole(), forget=[(inputs, labels, other)], holdout=[(inputs, labels, other)])
    assert norms(uncut, "forget") == pytest.approx(norms(plain, "forget"), rel=1e-6)
    with torch.no_grad():
        closed = [
            float((net(x).softmax(-1) - torch.eye(4)[y]).norm() * torch.cat([x, torch.ones(1)]).norm())
            for x, y in zip(inputs, labels, strict=True)
        ]
    assert norms(plain, "forget") == pytest.approx(closed, rel=1e-5)


@pytest.mark.slow
def test_learned_examples_have_shorter_gradients() -> None:
    net = taught(untaught(), epochs=25, sign=1.0, lr=3e-3)
    found = GradientNorm()(net, readout=CausalLMReadout(), probes=people_probes(), engine=GradientEngine(net))
    auc = {o.metric: o.value for o in found}["membership_auc_gradient_norm"]
    assert auc > 0.85


def test_it_is_refused_where_nothing_is_trained_and_without_a_holdout() -> None:
    net = nn.Linear(3, 2)
    loader = [(torch.randn(2, 3), torch.tensor([0, 1]))]
    with pytest.raises(Misfit, match=r"`GradientNorm` should get examples .* no `holdout` among `forget`"):
        observe(net, ClassificationReadout(), forget=loader)
    net.requires_grad_(False)
    with pytest.raises(Misfit, match="should find parameters that are trained. Found none"):
        observe(net, ClassificationReadout(), forget=loader, holdout=loader)


def test_data_that_are_read_only_once_are_refused() -> None:
    loader = [(torch.randn(2, 3), torch.tensor([0, 1]))]
    with pytest.raises(ValueError, match=r"read the probe a second time. Found 0 of 2 examples in its `generator`"):
        observe(nn.Linear(3, 2), ClassificationReadout(), forget=(b for b in loader), holdout=loader)
