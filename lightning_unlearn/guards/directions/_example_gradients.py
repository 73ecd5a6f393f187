from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from lightning_unlearn.engine import CapturedRows, CapturingPass, GradientEngine, random_numbers_kept
from lightning_unlearn.guards.directions._base import Direction
from lightning_unlearn.models.layers import output_head
from lightning_unlearn.objectives import Objective
from lightning_unlearn.prediction import Prediction
from lightning_unlearn.readouts import PackedCausalLMReadout, Readout
from lightning_unlearn.runtime import eval_mode, local


class ExampleGradients:
    """Gradients of each example's loss, divided by the number of examples. They are held, or captured.

    *Held* gradients need one pass per example, over a batch of one. This works with every network. *Captured* gradients all
    come from one pass over the padded batch.

    Passes are in evaluation mode, and leave the random generators as found.

    Args:
        engine: Runs the passes.
        module: The module of the fit.
        readout: How to run the network in it.
        objective: The loss of an example.
        params: The parameters whose gradients are needed.
        limit: The most examples.
        keep: From a gradient to the copy to hold; ``None`` to capture.

    Raises:
        NotImplementedError: If a BatchNorm mixes examples even in evaluation mode.
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
        self._readout = unpacked(readout)
        self._network = self._readout.find_network(module)
        self._capture = CapturingPass(engine, params, output_head(self._network)) if keep is None else None

    def of(self, batches: Sequence[Any]) -> Sequence[Direction]:
        """Gradients of the examples of ``batches``, up to the limit; none if they are not finite.

        Collective: every rank must call it.

        Args:
            batches: On the device.
        """
        try:
            with random_numbers_kept(), eval_mode(self._module):
                return self._held(batches) if self._capture is None else self._captured(batches, self._capture)
        except FloatingPointError:
            return []

    def loss(self, batch: Any) -> Tensor:
        """The loss of a batch of one."""
        loss: Tensor = self._objective(self._readout(self._network, batch))
        return loss

    def losses(self, batch: Any) -> tuple[Tensor, Tensor]:
        """The loss of each example, ``[B]``, and the number of its supervised rows, ``[B]``."""
        prediction = self._readout(self._network, batch)
        if not isinstance(prediction, Prediction):
            raise NotImplementedError(
                "`MatrixFree` should get a readout that gives a `Prediction`, which can be split by example. Found "
                f"`{type(prediction).__name__}` from `{type(self._readout).__name__}`. Use another `storage`, such as "
                "`Float32()`."
            )
        losses = torch.stack([self._objective(example) for example in prediction.split_by_example()])
        return losses, prediction.rows_per_example()

    def _held(self, batches: Sequence[Any]) -> list[Direction]:
        sizes = [self._size(batch) for batch in batches]
        examples = [self._cut(b, n, slice(j, j + 1)) for b, n in zip(batches, sizes, strict=True) for j in range(n)]
        # Each pass ends in a collective, so every rank must run as many as the rank with the fewest examples.
        count = self._engine.smallest(len(examples[: self._limit]))
        # A generator: one gradient in full precision at a time, and the copies to keep.
        rows = (self._engine.row(self.loss, [one], self._params, divisor=count)[0] for one in examples[:count])
        return [[None if t is None or self._keep is None else self._keep(local(t)) for t in row] for row in rows]

    def _captured(self, batches: Sequence[Any], capture: CapturingPass) -> CapturedRows:
        kept, sizes = [], []
        left = self._limit  # examples that may still be added
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
        # Asked of the readout again: `cut` silently passes over what is no tensor, such as a list of strings.
        if (found := self._size(fewer)) != here.stop - here.start:
            raise NotImplementedError(
                "`PerExample` should be able to split a batch: tensors with one entry per example, in mappings, "
                f"sequences or data classes. Found a `{type(batch).__name__}` of {size} examples that still has {found} "
                f"when cut to {here.stop - here.start}. Use `MicroBatches()`, or let your `collate_fn` return tensors."
            )
        return fewer

    def _size(self, batch: Any) -> int:
        return len(self._readout.keys(batch))


def cut(batch: Any, size: int, here: slice) -> Any:
    """The examples ``here`` of a batch of ``size``. Every tensor with ``size`` entries is cut; the others stay whole.

    Example:
        >>> cut({"x": torch.arange(3), "scale": torch.ones(1)}, 3, slice(1, 2))
        {'x': tensor([1]), 'scale': tensor([1.])}
    """
    return apply_to_collection(batch, Tensor, lambda t: t[here] if t.dim() and len(t) == size else t)


def refuse_batch_statistics(module: nn.Module) -> None:
    """Refuse, by name, a BatchNorm that mixes examples even in evaluation mode."""
    for name, part in module.named_modules():
        # Without running statistics it normalises by those of the batch, in every mode.
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is None:
            raise NotImplementedError(
                "`PerExample` should find a network that keeps examples separate. Found `track_running_stats=False` in "
                f"`{name}`, a `{type(part).__name__}`. Keep running statistics, use another norm, or `MicroBatches()`."
            )


def unpacked(readout: Readout) -> Readout:
    """The plain form of a readout that packs examples into one sequence. Results are equal up to rounding."""
    return readout.unpacked() if isinstance(readout, PackedCausalLMReadout) else readout
