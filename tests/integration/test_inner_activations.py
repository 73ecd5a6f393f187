"""When a pass begins, the activations of all passes before it are gone: those of an attacker's steps, too."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
from _modules import SomebodysModule
from _vantage import fitted, forgetting
from torch import Tensor

from lightning_unlearn import Attack, LatentPerturbation, Relearn, Sharpen, TokenwisePerturbation

ATTACKS: dict[str, Attack] = {
    "relearn": Relearn(steps=3, lr=1e-2),
    "relearn-full": Relearn(steps=3, lr=1e-2, mode="full"),
    "sharpen": Sharpen(0.3),
    "latent": LatentPerturbation(r"body\.0", eps=0.3, steps=2),
    "tokenwise": TokenwisePerturbation(r"body\.0", eps=0.3, steps=2),
}


class Passes:
    """Counts, when a pass begins, how many hidden states of earlier ones are still held."""

    def __init__(self) -> None:
        self.states: list[weakref.ref[Tensor]] = []
        self.at_begin: list[int] = []

    def begin(self) -> None:
        self.at_begin.append(sum(state() is not None for state in self.states))

    def module(self) -> SomebodysModule:
        # By closure and not as an attribute, which a fit would put back after each pass of ours.
        class Counted(SomebodysModule):
            def forward(module, x: Tensor) -> Tensor:
                self.begin()
                for layer in (*module.body, module.head):
                    x = layer(x)
                    self.states.append(weakref.ref(x))
                return x

        return Counted()


def passes(under: Any, **kwargs: Any) -> Passes:
    seen = Passes()
    fitted(forgetting(under=under), seen.module(), **kwargs)
    return seen


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("name", ATTACKS)
def test_no_pass_holds_the_activations_of_another(name: str, accumulate: int) -> None:
    attacked = passes({name: ATTACKS[name]}, accumulate_grad_batches=accumulate)
    assert len(attacked.at_begin) > len(
        passes(None, accumulate_grad_batches=accumulate).at_begin
    )  # the attacker has passes
    assert set(attacked.at_begin) == {0}


def test_a_graph_that_is_kept_is_noticed() -> None:
    class Keeps(Sharpen):
        def __call__(self, network: Any, *, batches: Any = (), loss: Any = None, engine: Any = None) -> Any:
            self.kept = [loss(batch) for batch in batches]
            return super().__call__(network, batches=batches, loss=loss, engine=engine)

    assert max(passes({"keeps": Keeps(0.3)}).at_begin) > 1
