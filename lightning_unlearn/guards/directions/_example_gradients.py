from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from lightning_unlearn.engine import CapturedRows, CapturingPass, GradientEngine, remember_rng
from lightning_unlearn.guards.directions._base import Direction
from lightning_unlearn.models.layers import output_head
from lightning_unlearn.objectives import Objective
from lightning_unlearn.prediction import Prediction
from lightning_unlearn.readouts import CausalLMReadout, PackedCausalLMReadout, Readout
from lightning_unlearn.runtime import eval_mode, local


class ExampleGradients:
    """Gradients of the loss of each example of some micro-batches, divided by their number: held, or captured.

    Held, each comes from a pass of its own over a batch of one, which asks nothing of the network. Captured, all come from
    one pass over the padded batch.

    Passes are in evaluation mode, and leave the random generators as found.

    Args:
        engine: How passes are run.
        module: The module of the fit.
        readout: How to run the network in it.
        objective: The loss of an example.
        params: The parameters wanted.
        limit: Number of examples at most.
        keep: From a gradient to the copy to hold; ``None`` to capture.

    Raises:
        NotImplementedError: If examples meet in a BatchNorm even in evaluation mode.
    """

    def __init__(
        self,
        engine: GradientEngine,
        module: nn.Module,
        readout: Readout,
        objective: Objective,
        params: Sequence[Tensor],
        *,
        limit: int | None,
        keep: Callable[[Tensor], Tensor] | None,
    ) -> None:
        refuse_batch_statistics(module)
        self._engine, self._module, self._objective, self._params = engine, module, objective, list(params)
        self._limit, self._keep = limit, keep
        self._readout = apart(readout)
        self._network = self._readout.find_network(module)
        self._capture = CapturingPass(engine, params, output_head(self._network)) if keep is None else None

    def of(self, batches: Sequence[Any]) -> Sequence[Direction]:
        """Those of the examples of ``batches``, on the device, up to the limit; none if they are not finite."""
        restore = remember_rng(self._module)
        try:
            with eval_mode(self._module):
                return self._held(batches) if self._capture is None else self._captured(batches, self._capture)
        except FloatingPointError:
            return []
        finally:
            restore()

    def loss(self, batch: Any) -> Tensor:
        """Of a batch of one."""
        loss: Tensor = self._objective(self._readout(self._network, batch))
        return loss

    def losses(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Of each example, ``[B]``, and the number of its supervised rows, ``[B]``."""
        said = self._readout(self._network, batch)
        if not isinstance(said, Prediction):
            raise NotImplementedError(
                "`MatrixFree` should get a readout that gives a `Prediction`, which can be taken apart. Found "
                f"`{type(said).__name__}` from `{type(self._readout).__name__}`. Use another `storage`, such as `Float32()`."
            )
        return torch.stack([self._objective(alone) for alone in said.split_by_example()]), said.rows_per_example()

    def _held(self, batches: Sequence[Any]) -> list[Direction]:
        sizes = [self._size(batch) for batch in batches]
        alone = [self._cut(b, n, slice(j, j + 1)) for b, n in zip(batches, sizes, strict=True) for j in range(n)]
        count = self._engine.smallest(len(alone[: self._limit]))
        rows = (self._engine.row(self.loss, [one], self._params, divisor=count)[0] for one in alone[:count])
        return [[None if t is None or self._keep is None else self._keep(local(t)) for t in row] for row in rows]

    def _captured(self, batches: Sequence[Any], capture: CapturingPass) -> CapturedRows:
        kept, sizes = [], []
        left = self._limit
        for batch in batches:
            size = self._size(batch)
            wanted = size if left is None else min(size, left)
            left = None if left is None else left - wanted
            if wanted:
                kept.append(self._cut(batch, size, slice(0, wanted)))
                sizes.append(wanted)
        return capture(self.losses, kept, sizes)

    def _cut(self, batch: Any, size: int, here: slice) -> Any:
        fewer = cut(batch, size, here)
        if (found := self._size(fewer)) != here.stop - here.start:
            raise NotImplementedError(
                "`PerExample` should be able to take a batch apart: tensors with one entry per example, in mappings, "
                f"sequences or data classes. Found a `{type(batch).__name__}` of {size} examples that still has {found} "
                f"when cut to {here.stop - here.start}. Use `MicroBatches()`, or let your `collate_fn` return tensors."
            )
        return fewer

    def _size(self, batch: Any) -> int:
        return len(self._readout.keys(batch))


def cut(batch: Any, size: int, here: slice) -> Any:
    """Some examples of a batch of ``size``: of each tensor in it that has as many entries, those ``here``.

    Example:
        >>> cut({"x": torch.arange(3), "scale": torch.ones(1)}, 3, slice(1, 2))
        {'x': tensor([1]), 'scale': tensor([1.])}
    """
    return apply_to_collection(batch, Tensor, lambda t: t[here] if t.dim() and len(t) == size else t)


def refuse_batch_statistics(module: nn.Module) -> None:
    """Refuse, by name, a BatchNorm in which examples meet even in evaluation mode."""
    for name, part in module.named_modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is None:
            raise NotImplementedError(
                "`PerExample` should find a network in which examples do not meet. Found `track_running_stats=False` in "
                f"`{name}`, a `{type(part).__name__}`. Keep running statistics, use another norm, or `MicroBatches()`."
            )


def apart(readout: Readout) -> Readout:
    """One that keeps examples apart: the plain form of one that packs them into a sequence, equal to rounding."""
    return CausalLMReadout(readout.keep_features) if isinstance(readout, PackedCausalLMReadout) else readout
