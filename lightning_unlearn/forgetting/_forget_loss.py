from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from lightning_unlearn.data import ForgetStream
from lightning_unlearn.engine import GradientEngine, decided_readout, remember_buffers, remember_python_state
from lightning_unlearn.objectives import Objective
from lightning_unlearn.prediction import Likelihood
from lightning_unlearn.readouts import Readout, choose_readout
from lightning_unlearn.references import CachedLogLikelihood, FrozenCopy, Reference, choose_reference


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
        ValueError: If the reference or the readout does not give what the objective needs.
        NotImplementedError: If the reference cannot work under this strategy.
    """

    def __init__(
        self,
        objective: Objective,
        module: pl.LightningModule,
        readout: Readout | None,
        reference: Reference | None,
        kind: str,
    ) -> None:
        self._objective, self._module, self._kind = objective, module, kind
        self._given, self._given_readout = reference, readout
        self._read_by(choose_readout(module) if readout is None else readout)
        # Not `reference or ...`: a cache has a length, starts empty, and would count as false.
        self.reference = self._chosen() if reference is None else reference
        if self.reference is not None:
            _refuse_unfit(objective, self.reference, kind)
            self.reference.attach(self._network)
        # If the choice of the readout turns out wrong, a resumed fit cannot copy the original any more: its weights have
        # been restored by then.
        self._spare: FrozenCopy | None = None
        if (
            reference is None
            and readout is None
            and isinstance(self.reference, CachedLogLikelihood)
            and kind != "fsdp1"
        ):
            self._spare = FrozenCopy(on_cpu=True)
            self._spare.attach(module)

    def decide(self, trainer: pl.Trainer, forget: Iterable[Any], *, resumes: bool) -> None:
        """Use the readout that the fit decides on when it starts. May change the reference, if nobody gave one.

        Collective: every rank must call it.

        Args:
            trainer: The trainer of the fit.
            forget: The forget loader: the decision is made on it if no training batch can be had.
            resumes: Whether the network has moved away from the original already.
        """
        self._read_by(decided_readout(trainer, self._module, self._given_readout, lambda: forget))
        spare, self._spare = self._spare, None
        wanted = self._chosen() if self._given is None else self._given
        if type(wanted) is not type(self.reference):
            self._replace_reference(wanted, spare if resumes else None)
        elif self.reference is not None and getattr(self.reference, "network", None) is not self._network:
            if resumes:
                self.reference.network = self._network  # what it knows of the original stays
            else:
                self.reference.attach(self._network)

    def _replace_reference(self, wanted: Reference | None, spare: FrozenCopy | None) -> None:
        if spare is not None:
            spare.on_cpu = False  # it goes to the device with its first use
            self.reference = spare
            return
        self.reference = wanted
        if wanted is not None:
            _refuse_unfit(self._objective, wanted, self._kind)
            wanted.attach(self._network)

    def __call__(self, batch: Any, *, saw: Callable[[Likelihood], None]) -> Tensor:
        """The loss, ``[]``, with a graph; ``saw`` is called with the network's prediction."""
        # The reference first: it may switch the adapter off, or swap weights, which must not happen to a graph in use.
        original = None if self.reference is None else self._original(self.reference, batch)
        student = self._reading(self._network, batch)
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
        batches: Iterable[Any] = (engine.to_device(batch) for batch in stream.sweep())
        engine.forward(lambda all_batches: reference.sweep(self._reading, all_batches), batches)
        # Each rank swept its share of the data; in later epochs an example may come to another rank.
        _share_among_ranks(reference, engine.world_size)

    def _original(self, reference: Reference, batch: Any) -> Likelihood:
        if self._reading.gives_logits:
            return reference(self._reading, batch)
        # A step may carry a hidden state, a queue, a counter: the network's pass should start where the reference's did.
        put_back = [remember(self._module) for remember in (remember_buffers, remember_python_state)]
        try:
            return reference(self._reading, batch)
        finally:
            for restore in put_back:
                restore()

    def _read_by(self, readout: Readout) -> None:
        self._objective.refuse_without_logits(readout)
        self.readout = readout
        # One pass over the batch is cheaper than one for each example, where nothing but the mean is asked for.
        self._reading = readout.for_mean() if self._objective.needs_only_mean else readout
        self._network = readout.find_network(self._module)

    def _chosen(self) -> Reference | None:
        return choose_reference(self._objective, self._network, self.readout)


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
