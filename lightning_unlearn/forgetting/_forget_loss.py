from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lightning_unlearn.data import ForgetStream
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.objectives import Objective
from lightning_unlearn.prediction import Prediction
from lightning_unlearn.readouts import Readout, choose_readout, refuse_foreign_tokens
from lightning_unlearn.references import FrozenCopy, Reference, choose_reference


class ForgetLoss:
    """The objective on a forget micro-batch, with the network, its readout and the reference.

    Must be made while the network is still the original, because the reference is attached here.

    Args:
        objective: The objective that forgetting minimises.
        module: The module with the network.
        readout: How to run the network; ``None`` for what fits the module.
        reference: Gives the original model's outputs; ``None`` for the cheapest that suffices.
        kind: Kind of strategy. FSDP1 does not show the weights that some references need.

    Raises:
        ValueError: If the reference does not give what the objective needs.
        NotImplementedError: If the reference cannot work under this strategy.
    """

    def __init__(
        self, objective: Objective, module: nn.Module, readout: Readout | None, reference: Reference | None, kind: str
    ) -> None:
        self._objective = objective
        self.readout = choose_readout(module) if readout is None else readout
        self._network = self.readout.find_network(module)
        # Not `reference or ...`: a cache has a length, starts empty, and would count as false.
        self.reference = choose_reference(objective, self._network) if reference is None else reference
        if self.reference is not None:
            _refuse_unfit(objective, self.reference, kind)
            self.reference.attach(self._network)

    def __call__(self, batch: Any, *, saw: Callable[[Prediction], None]) -> Tensor:
        """The loss, ``[]``, with a graph; ``saw`` is called with the network's prediction."""
        # The reference first: it may switch the adapter off, or swap weights, which must not happen to a graph in use.
        original = None if self.reference is None else self.reference(self.readout, batch)
        student = self.readout(self._network, batch)
        saw(student)
        loss: Tensor = self._objective(student, original)
        if loss.dim() or not loss.requires_grad:
            raise ValueError(
                f"`{type(self._objective).__name__}` should return a scalar that depends on the network. Found shape "
                f"{tuple(loss.shape)}, `requires_grad = {loss.requires_grad}`. Take a mean, and do not detach."
            )
        return loss

    def sweep(self, engine: GradientEngine, stream: ForgetStream) -> None:
        """Show the reference all forget data once before the first step, if it needs that. Collective."""
        reference = self.reference
        if reference is None or not reference.needs_sweep:
            return
        batches: Iterable[Any] = (engine.to_device(batch) for batch in self._readable(stream.sweep()))
        engine.forward(lambda all_batches: reference.sweep(self.readout, all_batches), batches)
        # Each rank swept its share of the data; in later epochs an example may come to another rank.
        _share_among_ranks(reference, engine.world_size)

    def _readable(self, batches: Iterable[Any]) -> Iterator[Any]:
        for batch in batches:
            refuse_foreign_tokens(self._network, batch)
            yield batch


def _refuse_unfit(objective: Objective, reference: Reference, kind: str) -> None:
    if objective.needs_reference_logits and not reference.gives_logits:
        raise ValueError(
            f"`{type(objective).__name__}` should get the original model's whole distribution. Found "
            f"`{type(reference).__name__}`, which only knows likelihoods. Use `FrozenCopy()`."
        )
    if isinstance(reference, FrozenCopy) and kind == "fsdp1":
        raise NotImplementedError(
            "`FrozenCopy` should be able to swap weights in place. Found `FSDPStrategy` (FSDP1), whose flat parameters "
            "do not allow it. Use `ModelParallelStrategy` (FSDP2), LoRA with `AdapterDisabled()`, or an objective that "
            "only needs likelihoods, such as `NPO`."
        )


def _share_among_ranks(reference: Reference, world_size: int) -> None:
    """Give every rank what the others have cached. Collective."""
    if world_size == 1 or not hasattr(reference, "known"):
        return
    gathered: list[Any] = [None] * world_size
    torch.distributed.all_gather_object(gathered, reference.known)
    for known in gathered:
        reference.add(known)  # type: ignore[attr-defined]
