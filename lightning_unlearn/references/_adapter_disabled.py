from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import nn
from typing_extensions import override

from lightning_unlearn.models import moved_from_start
from lightning_unlearn.models.adapters import added_layers, added_switched_off
from lightning_unlearn.models.layers import in_adapter
from lightning_unlearn.prediction import Likelihood
from lightning_unlearn.readouts import Readout
from lightning_unlearn.references._base import Reference
from lightning_unlearn.runtime import eval_without_grad


class AdapterDisabled(Reference):
    """The original model is the same network with its adapter switched off: it takes no memory at all.

    It takes one more forward pass over the forget rows in each step. Where objectives ask for likelihoods only and rows are
    seen more than once, :class:`CachedLogLikelihood` is faster: it asks about each row once, before the first step.

    This is right only if nothing but the adapter is trained, and the adapter started as the identity. :meth:`attach`
    refuses other networks.

    Raises:
        ValueError: If the network has no adapter, trains base weights, or its adapter has been trained before. During the
            fit, if base weights were unfrozen since, or are about to be edited.
    """

    @override
    def attach(self, network: nn.Module) -> None:
        if (problem := why_adapter_is_not_enough(network)) is not None:
            raise ValueError(
                f"`AdapterDisabled` should get a network that trains a fresh adapter only. Found {problem}. "
                "Use `CachedLogLikelihood()` or `FrozenCopy()` as the reference."
            )
        super().attach(network)

    @override
    def keep(self, parameter: nn.Parameter) -> None:
        name = next((name for name, p in self.network.named_parameters() if p is parameter), None)
        if name is not None and not in_adapter(name):
            raise ValueError(
                "`AdapterDisabled` should find the base as it was in the original. Found an edit that changes "
                f"`{name}`. Use `FrozenCopy()` or `CachedLogLikelihood()` as the reference."
            )

    @override
    def __call__(self, readout: Readout, batch: Any) -> Likelihood:
        # Asked each time: a callback that unfreezes layers would silently move the original away.
        if base := _trained_outside(self.network):
            raise ValueError(
                f"`AdapterDisabled` should find a frozen base in every step. Found {len(base)} trained parameters outside "
                f"the adapter, `{base[0]}` first: they were unfrozen during the fit. Use `FrozenCopy()` or "
                "`CachedLogLikelihood()` as the reference."
            )
        with eval_without_grad(self.network), _switched_off(self.network):
            return readout(self.network, batch)


def why_adapter_is_not_enough(network: nn.Module) -> str | None:
    """Why switching the adapter off would not give the original model back; ``None`` if it would."""
    if _adapted(network) is None and not any(True for _ in added_layers(network)):
        return f"`{type(network).__name__}`, which has no adapter"
    if base := _trained_outside(network):
        return f"{len(base)} trained parameters outside the adapter, `{base[0]}` first"
    # An adapter that was fine-tuned before is part of the original: switching it off would give an earlier model. One that
    # starts with parts of the weights (PiSSA, OLoRA) has taken them out of the base.
    used = next(moved_from_start(network), None)
    if used is None:
        return None
    return (
        f"an adapter that has been trained already (`{used}` is not where it starts), or starts with a part of the base"
    )


def _adapted(network: nn.Module) -> Any:
    """The PEFT model in ``network``, which may be a module around it; ``None`` if there is none."""
    parts = (m for m in network.modules() if hasattr(m, "peft_config") and hasattr(m, "disable_adapter"))
    return next(parts, None)


def _trained_outside(network: nn.Module) -> list[str]:
    return [name for name, p in network.named_parameters() if p.requires_grad and not in_adapter(name)]


@contextmanager
def _switched_off(network: nn.Module) -> Iterator[None]:
    # When `disable_adapter` ends, PEFT makes the whole adapter trainable, also what the user has frozen.
    trained = [(p, p.requires_grad) for p in network.parameters()]
    of_peft = _adapted(network)
    try:
        with added_switched_off(network), nullcontext() if of_peft is None else of_peft.disable_adapter():
            yield
    finally:
        for p, requires_grad in trained:
            p.requires_grad_(requires_grad)
