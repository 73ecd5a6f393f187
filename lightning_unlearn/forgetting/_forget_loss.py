from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lightning_unlearn.data import ForgetStream
from lightning_unlearn.engine import GradientEngine, remember_buffers, remember_python_state
from lightning_unlearn.objectives import Objective
from lightning_unlearn.prediction import Likelihood
from lightning_unlearn.readouts import Readout, read_for_a_loss, refuse_foreign_tokens
from lightning_unlearn.references import FrozenCopy, Reference, choose_reference
from lightning_unlearn.runtime import ProgressLines


class ForgetLoss:
    """The objective on a forget micro-batch, with the network, its readout and the reference.

    Must be made while the network is still the original, because the reference is attached here.

    Args:
        objective: The objective that forgetting minimises.
        module: The module with the network.
        readout: How to run the network.
        reference: Gives the original model's outputs; ``None`` for the cheapest that suffices.
        kind: Kind of strategy. FSDP1 does not show the weights that some references need.
        earlier: The reference that was chosen earlier in this fit: it is kept if it still fits.

    Raises:
        ValueError: If the reference or the readout does not give what the objective needs.
        NotImplementedError: If the reference cannot work under this strategy.
    """

    def __init__(
        self,
        objective: Objective,
        module: pl.LightningModule,
        readout: Readout,
        reference: Reference | None,
        kind: str,
        earlier: Reference | None = None,
    ) -> None:
        self._objective, self._module = objective, module
        self._kept: dict[int, Likelihood] | None = None
        self._read_by(readout)
        # Not `reference or ...`: a cache has a length, starts empty, and would count as false.
        self.reference = (
            choose_reference(objective, self._network, readout, earlier) if reference is None else reference
        )
        if self.reference is not None:
            _refuse_unfit(objective, self.reference, kind)
            self.reference.attach(self._network)

    def read_anew(self, readout: Readout, copy: FrozenCopy | None) -> None:
        """Run the network by another readout, when it has moved away from the original already.

        Args:
            readout: How to run it.
            copy: Of the whole module while it was the original, if there is one.
        """
        self._read_by(readout)
        if copy is not None:
            copy.on_cpu = getattr(self.reference, "on_cpu", False)  # else it goes to the device with its first use
            self.reference = copy
        elif self.reference is not None:
            self.reference.network = self._network  # not attached again: it knows the original

    def __call__(self, batch: Any, *, saw: Callable[[Likelihood], None]) -> Tensor:
        """The loss, ``[]``, with a graph; ``saw`` is called with the network's prediction."""
        with read_for_a_loss():
            return self._of(batch, saw)

    def _of(self, batch: Any, saw: Callable[[Likelihood], None]) -> Tensor:
        original = self.original(batch)
        student = self._reading(self._network, batch)
        saw(student)
        return self.of(student, original)

    def original(self, batch: Any) -> Likelihood | None:
        """The original model's view of ``batch``, if the objective needs it.

        Asked before the network is run: it may switch the adapter off, or swap weights, which must not happen to a graph in
        use.
        """
        return None if self.reference is None else self._known_original(self.reference, batch)

    def of(self, student: Likelihood, original: Likelihood | None) -> Tensor:
        """The loss, ``[]``, of what the network predicted."""
        loss: Tensor = self._objective(student, original)
        if loss.dim() or not loss.requires_grad:
            raise ValueError(
                f"`{type(self._objective).__name__}` should return a scalar that depends on the network. Found shape "
                f"{tuple(loss.shape)}, `requires_grad = {loss.requires_grad}`. Take a mean, and do not detach."
            )
        return loss

    @contextmanager
    def originals_kept(self) -> Iterator[None]:
        """Ask the reference once about each micro-batch. Under an attack, what it runs may be no longer the original."""
        self._kept = {}
        try:
            yield
        finally:
            self._kept = None

    def sweep(self, engine: GradientEngine, stream: ForgetStream) -> None:
        """Show the reference all forget data once before the first step, if it needs that. Collective."""
        reference = self.reference
        if reference is None or not reference.needs_sweep:
            return
        batches: Iterable[Any] = _told(engine.to_device(batch) for batch in self._readable(stream.sweep()))
        engine.forward(lambda all_batches: reference.sweep(self._reading, all_batches), batches)
        # Each rank swept its share of the data; in later epochs an example may come to another rank.
        _share_among_ranks(reference, engine.world_size)

    def _known_original(self, reference: Reference, batch: Any) -> Likelihood:
        if self._kept is None:
            return self._original(reference, batch)
        if id(batch) not in self._kept:
            with read_for_a_loss(False):  # weights change before it is used again
                self._kept[id(batch)] = self._original(reference, batch)
        return self._kept[id(batch)]

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

    def _readable(self, batches: Iterable[Any]) -> Iterator[Any]:
        for batch in batches:
            refuse_foreign_tokens(self._network, batch)
            yield batch


def _told(batches: Iterable[Any]) -> Iterator[Any]:
    """The batches; a line a minute says which one it is. The trainer's bar is up already: no second one."""
    progress = ProgressLines(rank_zero_info)
    for number, batch in enumerate(batches, start=1):
        yield batch
        progress.at(number, f"`Unlearn` has asked the original about {number} batches of forget data")


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
