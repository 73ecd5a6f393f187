"""Ctrl-C while the original's weights are swapped in leaves the fit with its own."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_unlearn import ClassificationReadout, FrozenCopy
from lightning_unlearn.models import swapped_weights


@pytest.fixture(autouse=True)
def _as_in_a_terminal() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("at", range(1, 14))
def test_at_each_copy_and_each_clone(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    network, reference, calls = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), FrozenCopy(), [0]
    reference.attach(network)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(1)
    before = [p.detach().clone() for p in network.parameters()]

    def pressing(original: Any) -> Any:
        def call(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            calls[0] += 1
            if calls[0] in (at, at + 1):
                signal.raise_signal(signal.SIGINT)
            written: Tensor = original(self, *args, **kwargs)
            return written

        return call

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt) as interrupt:
        patch.setattr(Tensor, "copy_", pressing(Tensor.copy_))
        patch.setattr(Tensor, "clone", pressing(Tensor.clone))
        reference(ClassificationReadout(), (torch.ones(2, 3), torch.tensor([0, 1])))
        signal.raise_signal(signal.SIGINT)  # fewer calls than `at`
    assert interrupt.value is not None  # held here with its frames, as in a fit that is being shut down
    assert all(torch.equal(p, value) for p, value in zip(network.parameters(), before, strict=True))


def test_twice_in_a_control_that_is_swapped_in_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a check around it, too, the second one is held back while weights are put back."""
    network, original, restoring = nn.Linear(3, 2), Tensor.copy_, [0]
    before = {name: p.detach().clone() for name, p in network.named_parameters()}

    def pressing(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        restoring[0] += 1
        signal.raise_signal(signal.SIGINT)
        return original(self, *args, **kwargs)

    weights = {"weight": torch.ones(2, 3), "bias": torch.ones(2)}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt), swapped_weights(network, weights):
        patch.setattr(Tensor, "copy_", pressing)
        signal.raise_signal(signal.SIGINT)
    assert restoring == [2]
    assert all(torch.equal(p, before[name]) for name, p in network.named_parameters())
