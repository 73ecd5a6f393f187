from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lightning_unlearn.engine import GradientEngine, sharded_like, sum_by_scope
from lightning_unlearn.readouts import Readout
from lightning_unlearn.runtime import drop_copies, local


@dataclass(frozen=True)
class EditRecord:
    """What an edit did.

    Args:
        edit: Name of its class.
        settings: Its plain settings.
        tensors: Number of parameters with a changed element.
        elements: Number of weights that changed.
        relative_change: Length of the change over the length of the parameters the edit wrote to.
    """

    edit: str
    settings: dict[str, Any]
    tensors: int
    elements: int
    relative_change: float


class Edit(ABC):
    """A one-shot change of weights: no optimizer, no steps. A subclass writes :meth:`new_values`.

    Call it on a network, or let :class:`ApplyEdit` do so in a fit. Only parameters change.

    Attributes:
        needs_forget: Whether it looks at forget data.
        needs_retain: Whether it looks at retain data.
        resets_optimizer: Whether what an optimizer remembers of changed weights is set to zero.

    Example:
        >>> class Halve(Edit):
        ...     def new_values(self, network, *, forget, retain, readout, engine):
        ...         for name, param in network.named_parameters():
        ...             yield name, param / 2
        >>> record = Halve()(nn.Linear(2, 3))
        >>> record.tensors, record.elements, round(record.relative_change, 6)
        (2, 9, 0.5)
    """

    needs_forget: ClassVar[bool] = False
    needs_retain: ClassVar[bool] = False
    resets_optimizer: ClassVar[bool] = False

    @abstractmethod
    def new_values(
        self,
        network: nn.Module,
        *,
        forget: Sequence[Any],
        retain: Sequence[Any],
        readout: Readout | None,
        engine: GradientEngine,
    ) -> Iterator[tuple[str, Tensor]]:
        """Name and new value of each parameter to change.

        Each value is written as soon as it is yielded. Whatever needs the unchanged network, such as gradients, has to be
        computed before the first ``yield``.

        Args:
            network: The live network.
            forget: Micro-batches of what must go, on the network's device.
            retain: Micro-batches of what must stay.
            readout: How to run the network on them.
            engine: How to take gradients and run passes under the strategy in use.

        Yields:
            A name, as in ``network.named_parameters()``, and a tensor of the parameter's shape: whole, or sharded as it is.
        """

    def __call__(
        self,
        network: nn.Module,
        *,
        forget: Sequence[Any] = (),
        retain: Sequence[Any] = (),
        readout: Readout | None = None,
        engine: GradientEngine | None = None,
        optimizers: Sequence[torch.optim.Optimizer] = (),
        before_write: Callable[[nn.Parameter], object] = lambda parameter: None,
    ) -> EditRecord:
        """Change ``network`` in place, and return a record of the change. Arguments are those of :meth:`new_values`.

        Args:
            network: Changed in place.
            forget: What must go.
            retain: What must stay.
            readout: How to run the network.
            engine: How to take gradients.
            optimizers: Whose memory of changed weights is set to zero, if :attr:`resets_optimizer`.
            before_write: Called with each parameter, right before it is changed.

        Raises:
            ValueError: If a new value has the name of no parameter, or another shape than the parameter.
            FloatingPointError: If a new value is not finite. Values before it have been written by then.
        """
        engine = GradientEngine(network) if engine is None else engine
        params = dict(network.named_parameters())
        drop_copies(network)  # FSDP2 modules that still hold gathered weights would go on computing with those
        written: list[Tensor] = []
        changes: list[Tensor] = []
        values = self.new_values(network, forget=forget, retain=retain, readout=readout, engine=engine)
        # One at a time, so that the new values need not all be in memory.
        for name, value in values:
            self._refuse(name, value, params, engine)
            before_write(params[name])
            before = local(params[name].detach()).clone() if self.resets_optimizer and optimizers else None
            changes.append(_write_(params[name], value))
            if before is not None:
                _reset_(optimizers, params[name], before)
            written.append(params[name])
        drop_copies(network)  # again, since `new_values` may have run the network
        return self._record(changes, written, engine)

    def see_original(self, network: nn.Module) -> None:
        """Called by :class:`ApplyEdit` while ``network`` is the original: before the first step, and before a restore.

        For edits at the end of a fit that compare the network with it. Defaults to nothing.
        """

    def settings(self) -> dict[str, Any]:
        """Its plain settings, by name: numbers, texts, flags."""
        plain = (bool, int, float, str, type(None))
        return {k: v for k, v in vars(self).items() if isinstance(v, plain) and not k.startswith("_")}

    def _refuse(self, name: str, value: Tensor, params: dict[str, nn.Parameter], engine: GradientEngine) -> None:
        kind = type(self).__name__
        if name not in params:
            raise ValueError(f"`{kind}` should change parameters of the network. Found none of the name `{name}`.")
        if value.shape != params[name].shape or not params[name].is_floating_point():
            raise ValueError(
                f"`{kind}` should give `{name}` a value of its shape, {tuple(params[name].shape)} of "
                f"{params[name].dtype}. Found {tuple(value.shape)} of {value.dtype}. Weights that are stored in few bits "
                "cannot be edited: load the network without quantization."
            )
        # Decided by all processes together: if only one stopped, the others would wait for it forever.
        if not engine.is_finite([value]):
            raise FloatingPointError(f"`{kind}` should give finite values. Found NaN or infinity for `{name}`.")

    def _record(self, changes: list[Tensor], written: list[Tensor], engine: GradientEngine) -> EditRecord:
        if not written:  # nothing to add up
            return EditRecord(type(self).__name__, self.settings(), 0, 0, 0.0)
        # Each process has counted its own shards; summed over processes, these are counts of whole parameters.
        scopes = range(len(written))
        totals = sum_by_scope(changes, written, scopes, len(written), engine.sharding_group)
        changed, length, before = totals.unbind(1)
        relative = float((length.sum() / before.sum().clamp_min(torch.finfo(before.dtype).tiny)).sqrt())
        return EditRecord(type(self).__name__, self.settings(), int((changed > 0).sum()), int(changed.sum()), relative)


@torch.no_grad()
def _write_(param: Tensor, value: Tensor) -> Tensor:
    """Write in place. Returns ``[3]`` float64: number of changed elements, squared length of the change and of the old."""
    here = local(param)
    new = local(value) if isinstance(value, DTensor) else local(sharded_like(value.to(here.device), param))
    before = here.to(torch.float64, copy=True)
    here.copy_(new)  # rounds to the parameter's precision: the change is measured after that
    after = here.double()
    return torch.stack([(after != before).sum().double(), (after - before).square().sum(), before.square().sum()])


@torch.no_grad()
def _reset_(optimizers: Sequence[torch.optim.Optimizer], param: nn.Parameter, before: Tensor) -> None:
    """Set what optimizers remember of changed elements to zero: all state of the parameter's shape, such as moments."""
    changed = local(param) != before
    for held in (state for optimizer in optimizers if (state := optimizer.state.get(param))):
        for value in held.values():
            if isinstance(value, Tensor) and value.shape == param.shape:
                here = local(value)
                here.masked_fill_(changed.to(here.device), 0)
