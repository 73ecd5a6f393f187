from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.engine._gradients import _SMALLEST_SCALE, GradientEngine
from lightning_unlearn.engine._isolation import random_numbers_kept, state_kept
from lightning_unlearn.engine._products import Row
from lightning_unlearn.engine._uses import Product, Use, noted_uses
from lightning_unlearn.functional.rows import Piece, SumOfPieces
from lightning_unlearn.functional.step import correct_step_

_WAY_OUT = "Use another `storage`, such as `Float32()`, which works with every network, or do not train it."
# The largest relative error that still counts as agreement with autograd, by the dtype of the output gradients.
_AGREES = {torch.float64: 1e-6, torch.float32: 1e-3}
_AGREES_IN_LOW_PRECISION = 5e-2


class CapturedRows(Sequence[Row]):
    """Gradients of ``k`` losses that are not held in memory. They are computed block by block when they are used.

    Each time the same numbers come out, so all inner products agree with each other. Every rule, scope and geometry then
    works as with gradients that are held. Inner products could also be computed from inputs and output gradients directly,
    in as many multiplications. But each would round in its own way, and they would not agree.

    Args:
        by_parameter: For each parameter, the pieces that its gradients are computed from.
        params: The parameters.
    """

    def __init__(self, by_parameter: Sequence[SumOfPieces], params: Sequence[Tensor]) -> None:
        self.by_parameter = list(by_parameter)
        self._params = list(params)

    @override
    def __len__(self) -> int:
        return len(self.by_parameter[0])

    @override
    def __getitem__(self, index: int) -> Row:  # type: ignore[override]  # no slices
        """One gradient as tensors, for inspection and tests."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return list(self.combined(torch.eye(len(self), dtype=torch.float64)[index]))

    def combined(self, weights: Tensor) -> Iterator[Tensor]:
        """The weighted sum of the gradients, one parameter after the other."""
        for param, rows in zip(self._params, self.by_parameter, strict=True):
            total = torch.zeros_like(param, dtype=torch.promote_types(param.dtype, torch.float32))
            # It takes a weighted sum out of a tensor: with minus signs, out of zeros, it gives the sum itself.
            correct_step_(total, torch.zeros_like(total), rows, -weights.to(total.device))
            yield total

    def nbytes(self) -> int:
        """Bytes of the tensors that are held instead of gradients."""
        held = [t for rows in self.by_parameter for _, piece in rows.pieces for t in piece.tensors()]
        # By storage: layers with the same input, such as queries, keys and values, can share one tensor.
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in held}
        return sum(storages.values())


class CapturingPass:
    r"""One forward and one backward pass that give the gradient of each example, without holding one in memory.

    The gradient of a matrix that multiplies tokens is :math:`\sum_t g_t x_t^\top`, over the tokens of the example, with the
    input :math:`x_t` of the layer and the gradient :math:`g_t` of its output. One pass over the sum of all losses gives
    both, if no example's outputs depend on another example. So for each token the input and the output gradient of each
    layer are kept. For embeddings these are the rows that were looked up. Gradients of norms and biases are small, and kept
    as they are. The pass itself computes no gradients of matrices.

    **The check.** On the first batch, the weighted sum of the gradients is compared with what autograd computes from the
    weighted losses on the same graph. If they differ, the parameter is refused by name: examples depend on each other, or
    the weight is also used in some other way. A parameter that is used in no supported way is refused in any step.

    ``torchjd.autogram`` gives the Gramian of such gradients. It gives neither their products with a step that is known only
    later, nor their weighted sum without another pass. It also computes all gradients of a layer at once, and needs examples
    along the first axis even of an output head, whose rows are supervised tokens only.

    Args:
        engine: Runs the passes.
        params: The parameters whose gradients are needed.
        head: The module whose input has one row per supervised token, if there is one.

    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> capture = CapturingPass(GradientEngine(layer), [layer.weight])
        >>> losses = lambda x: (layer(x)[:, 0], torch.ones(len(x), dtype=torch.int64))
        >>> rows = capture(losses, [torch.tensor([[1.0, 2.0], [3.0, 4.0]])], sizes=[2])
        >>> [row[0].tolist() for row in rows]
        [[[0.5, 1.0]], [[1.5, 2.0]]]
    """

    def __init__(self, engine: GradientEngine, params: Sequence[Tensor], head: nn.Module | None = None) -> None:
        self._engine, self._params = engine, list(params)
        self._wanted = {p for p in params if p.requires_grad}
        self._head = set() if head is None else set(head.parameters())
        self._names: dict[Tensor, str] = {p: name for name, p in engine.module.named_parameters()}
        self._has_agreed = False

    def __call__(
        self, losses: Callable[[Any], tuple[Tensor, Tensor]], batches: Sequence[Any], sizes: Sequence[int]
    ) -> CapturedRows:
        """Gradients of all losses, divided by their number.

        Args:
            losses: From a batch to the losses of its examples, ``[B]``, and the number of rows in the head of each, ``[B]``.
            batches: On the device, padded, with examples along the first axis of every module's input.
            sizes: Number of examples of each batch.

        Raises:
            NotImplementedError: If a parameter is used in a way that this does not cover.
            FloatingPointError: If the gradients are not finite at any loss scale.
        """
        count = sum(sizes)
        rows = {p: SumOfPieces(count, p.shape[-1] if p.dim() == 2 else 1) for p in self._params}
        captured = CapturedRows(list(rows.values()), self._params)
        first = 0
        for batch, size in zip(batches, sizes, strict=True):
            # Until the last backward of this batch: only the engine's own passes end with their state put back.
            with random_numbers_kept(), state_kept(self._engine.module):
                values, uses, scale = self._at_a_finite_scale(losses, batch, size, count)
                # Through the engine: norms are run again for their gradients, and need the fit's autocast.
                for pieces in self._engine.forward(lambda uses: [use.pieces(scale) for use in uses], uses):  # noqa: B023
                    for p in self._wanted.intersection(pieces):
                        rows[p].add(first, pieces[p])
                if not self._has_agreed and first == 0:
                    tolerance = max((use.tolerance for use in uses), default=0.0)
                    self._has_agreed = self._agrees(values * (scale / count), scale, captured, tolerance)
            first += size
        return captured

    def _at_a_finite_scale(
        self, losses: Callable[[Any], tuple[Tensor, Tensor]], batch: Any, size: int, count: int
    ) -> tuple[Tensor, list[_CapturedUse], float]:
        """Under a gradient scaler, halve the scale until fp16 gradients are finite; their own scale is divided out later."""
        scale = self._engine._loss_scale()
        while scale >= _SMALLEST_SCALE:
            values, uses = self._run(losses, batch, size, scale / count)
            if self._engine.scaler() is None or all(bool(use.gradient.isfinite().all()) for use in uses):
                return values, uses, scale
            scale /= 2
        raise FloatingPointError(
            "Per-example gradients should be finite at some loss scale. Found infinities or NaN at every scale down to "
            f"{_SMALLEST_SCALE:.0e}. Use `precision='bf16-mixed'` or `'32-true'`."
        )

    def _run(
        self, losses: Callable[[Any], tuple[Tensor, Tensor]], batch: Any, size: int, factor: float
    ) -> tuple[Tensor, list[_CapturedUse]]:
        with noted_uses(self._engine.module, self._wanted, size) as uses, torch.enable_grad():
            values, rows = self._engine.forward(losses, batch)
        used = {p for use in uses for p in use.params}
        missed = [p for p in self._params if p in self._wanted - used]
        wanted: list[Any] = [*(use.edge for use in uses), *missed]
        # Of outputs of layers, not of parameters: `p.grad` of the fit is not touched. The graph is kept for the check.
        grads = torch.autograd.grad(values.sum() * factor, wanted, allow_unused=True, retain_graph=not self._has_agreed)
        for p, gradient in zip(missed, grads[len(uses) :], strict=True):
            # A parameter that no recorded use covers may only have a gradient of zero, or none.
            if gradient is not None and gradient.any():
                raise NotImplementedError(
                    "`MatrixFree` should find each weight in a linear layer, an embedding, or a module that holds only "
                    f"vectors. Found `{self._names[p]}`, of shape {tuple(p.shape)}, somewhere else. {_WAY_OUT}"
                )
        with_gradient = [(use, gradient) for use, gradient in zip(uses, grads, strict=False) if gradient is not None]
        return values, [_CapturedUse(use, gradient, self._counts(use, size, rows)) for use, gradient in with_gradient]

    def _counts(self, use: Use, size: int, rows: Tensor) -> list[int]:
        """How many entries of the input's first axis belong to each example."""
        length = len(use.seen)
        # Readouts run the head on supervised tokens only: examples then have as many rows as they have such tokens.
        in_head = isinstance(use, Product) and not self._head.isdisjoint(use.params)
        if in_head and use.seen.dim() == 2 and length == int(rows.sum()):
            return [int(n) for n in rows.tolist()]
        if length % size:
            raise NotImplementedError(
                f"`MatrixFree` should find {size} examples along the first axis of each layer's input. Found shape "
                f"{tuple(use.seen.shape)} at `{self._names.get(use.params[0])}`. {_WAY_OUT}"
            )
        return [length // size] * size

    def _agrees(self, values: Tensor, scale: float, captured: CapturedRows, tolerance: float) -> bool:
        """Compare weighted sums with autograd's; ``False`` if these are not finite, so that the next step checks again."""
        # Weights differ by example, so that swapped examples are noticed.
        weights = torch.linspace(1, 2, len(values), dtype=torch.float64, device=values.device)
        padded = torch.cat([weights, weights.new_zeros(len(captured) - len(values))])
        wanted = [p for p in self._params if p in self._wanted]
        grads = torch.autograd.grad(values, wanted, weights.to(values.dtype), materialize_grads=True)
        expected = {p: grad.double() / scale for p, grad in zip(wanted, grads, strict=True)}
        whole = float(torch.stack([grad.norm() for grad in expected.values()]).norm())
        if not isfinite(whole):
            return False
        for p, total in zip(self._params, captured.combined(padded), strict=True):
            if p not in expected:
                continue
            error, length = float((total - expected[p]).norm()), float(expected[p].norm())
            # Beside the whole gradient a small tensor may be rounding only: hence the second term.
            if error > tolerance * (length + 1e-2 * whole):
                raise NotImplementedError(
                    "`MatrixFree` should get gradients that autograd agrees with. Found a difference of "
                    f"{error:.1e} in `{self._names[p]}`, of length {length:.1e}: examples of a batch depend on each other, "
                    f"or the weight is used in other ways, too. {_WAY_OUT}"
                )
        return True


@dataclass(frozen=True)
class _CapturedUse:
    """A use, the scaled gradient of its output, and how many entries of its input's first axis each example has."""

    use: Use
    gradient: Tensor
    counts: list[int]

    @property
    def tolerance(self) -> float:
        return _AGREES.get(self.gradient.dtype, _AGREES_IN_LOW_PRECISION)

    def pieces(self, scale: float) -> dict[Tensor, Piece]:
        # Float32 before the division, or small fp16 gradients would vanish.
        gradient = self.gradient if scale == 1 else self.gradient.float() / scale
        return self.use.pieces(gradient, self.counts)
