from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.engine._gradients import _SMALLEST_SCALE, GradientEngine
from lightning_unlearn.engine._products import Row
from lightning_unlearn.engine._uses import Product, Use, noted_uses
from lightning_unlearn.functional.rows import Piece, SumOfPieces
from lightning_unlearn.functional.step import correct_step_

_WAY_OUT = "Use another `storage`, such as `Float32()`, which asks nothing of the network, or do not train it."
_AGREES = {torch.float64: 1e-6, torch.float32: 1e-3}
_AGREES_IN_LOW_PRECISION = 5e-2


class CapturedRows(Sequence[Row]):
    """Gradients of ``k`` losses that are not held in memory: they are written out block by block when they are used.

    Each time the same numbers are written out, so all products of them agree with each other, and every rule, scope and
    geometry works as it does with gradients that are held. Products could also be computed of inputs and output
    gradients directly, for as many multiplications; but each would then round in its own way, and they would not agree.

    Args:
        by_parameter: For each parameter, what writes out its gradients.
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
        """One gradient as tensors: to look at, or to compare with."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return list(self.combined(torch.eye(len(self), dtype=torch.float64)[index]))

    def combined(self, weights: Tensor) -> Iterator[Tensor]:
        """The weighted sum of the gradients, by one parameter after the other."""
        for param, rows in zip(self._params, self.by_parameter, strict=True):
            total = torch.zeros_like(param, dtype=torch.promote_types(param.dtype, torch.float32))
            correct_step_(total, torch.zeros_like(total), rows, -weights.to(total.device))
            yield total

    def nbytes(self) -> int:
        """Memory of what is held instead of gradients."""
        held = [t for rows in self.by_parameter for _, piece in rows.pieces for t in piece.tensors()]
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in held}
        return sum(storages.values())


class CapturingPass:
    r"""One forward and one backward pass that give the gradient of each example, without ever holding one in memory.

    The gradient of a matrix that multiplies tokens is :math:`\sum_t g_t x_t^\top`, over the tokens of the example, with the
    input :math:`x_t` of the layer and the gradient :math:`g_t` of its output. Both are known after one pass over the sum of
    all losses, as long as no example's outputs depend on another example. They are what is kept: for each token an input
    and an output gradient of each layer. Of embeddings it is the rows that were looked up; norms and biases are so small
    that their gradients are kept. The pass itself computes no gradients of parameters.

    On the first batch the weighted sum of the gradients is compared with what autograd makes of the weighted losses on the
    same graph. Where they differ (examples depend on each other, a weight is also used in some other way), the parameter is
    refused by name. A parameter that is used in none of these ways is refused in any step.

    ``torchjd.autogram`` gives the Gramian of such gradients, but neither their products with a step that is known only
    later, nor their weighted sum without another pass. It also writes out all gradients of a layer at once, and wants
    examples along the first axis even of an output head, which sees supervised tokens only.

    Args:
        engine: How passes are run.
        params: The parameters wanted.
        head: The module that sees one row per supervised token, if there is one.

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
            losses: From a batch to the losses of its examples, ``[B]``, and how many rows the head sees of each, ``[B]``.
            batches: On the device, padded: examples along the first axis of all that modules see.
            sizes: ``B`` of each.

        Raises:
            NotImplementedError: If a parameter is used in a way that this does not cover.
            FloatingPointError: If the gradients are not finite at any loss scale.
        """
        count = sum(sizes)
        rows = {p: SumOfPieces(count, p.shape[-1] if p.dim() == 2 else 1) for p in self._params}
        found = CapturedRows(list(rows.values()), self._params)
        first = 0
        for batch, size in zip(batches, sizes, strict=True):
            values, brought, scale = self._at_a_finite_scale(losses, batch, size, count)
            for pieces in self._engine.forward(lambda them: [b.pieces(scale) for b in them], brought):  # noqa: B023
                for p in self._wanted.intersection(pieces):
                    rows[p].add(first, pieces[p])
            if not self._has_agreed and first == 0:
                tolerance = max((b.tolerance for b in brought), default=0.0)
                self._has_agreed = self._agrees(values * (scale / count), scale, found, tolerance)
            first += size
        return found

    def _at_a_finite_scale(
        self, losses: Callable[[Any], tuple[Tensor, Tensor]], batch: Any, size: int, count: int
    ) -> tuple[Tensor, list[_Brought], float]:
        scale = self._engine._loss_scale()
        while scale >= _SMALLEST_SCALE:
            values, brought = self._run(losses, batch, size, scale / count)
            if self._engine.scaler() is None or all(bool(b.gradient.isfinite().all()) for b in brought):
                return values, brought, scale
            scale /= 2
        raise FloatingPointError(
            "Per-example gradients should be finite at some loss scale. Found infinities or NaN at every scale down to "
            f"{_SMALLEST_SCALE:.0e}. Use `precision='bf16-mixed'` or `'32-true'`."
        )

    def _run(
        self, losses: Callable[[Any], tuple[Tensor, Tensor]], batch: Any, size: int, factor: float
    ) -> tuple[Tensor, list[_Brought]]:
        with noted_uses(self._engine.module, self._wanted, size) as uses, torch.enable_grad():
            values, rows = self._engine.forward(losses, batch)
        used = {p for use in uses for p in use.params}
        missed = [p for p in self._params if p in self._wanted - used]
        wanted: list[Any] = [*(use.edge for use in uses), *missed]
        found = torch.autograd.grad(values.sum() * factor, wanted, allow_unused=True, retain_graph=not self._has_agreed)
        for p, gradient in zip(missed, found[len(uses) :], strict=True):
            if gradient is not None and gradient.any():
                raise NotImplementedError(
                    "`MatrixFree` should find each weight in a linear layer, an embedding, or a module that holds only "
                    f"vectors. Found `{self._names[p]}`, of shape {tuple(p.shape)}, somewhere else. {_WAY_OUT}"
                )
        brought = [(use, gradient) for use, gradient in zip(uses, found, strict=False) if gradient is not None]
        return values, [_Brought(use, gradient, self._counts(use, size, rows)) for use, gradient in brought]

    def _counts(self, use: Use, size: int, rows: Tensor) -> list[int]:
        length = len(use.seen)
        in_head = isinstance(use, Product) and not self._head.isdisjoint(use.params)
        if in_head and use.seen.dim() == 2 and length == int(rows.sum()):
            return [int(n) for n in rows.tolist()]
        if length % size:
            raise NotImplementedError(
                f"`MatrixFree` should find {size} examples along the first axis of what each layer sees. Found shape "
                f"{tuple(use.seen.shape)} at `{self._names.get(use.params[0])}`. {_WAY_OUT}"
            )
        return [length // size] * size

    def _agrees(self, values: Tensor, scale: float, found: CapturedRows, tolerance: float) -> bool:
        """Compare weighted sums; weights differ by example, so that swapped examples are noticed. False if not finite."""
        weights = torch.linspace(1, 2, len(values), dtype=torch.float64, device=values.device)
        padded = torch.cat([weights, weights.new_zeros(len(found) - len(values))])
        wanted = [p for p in self._params if p in self._wanted]
        grads = torch.autograd.grad(values, wanted, weights.to(values.dtype), materialize_grads=True)
        expected = {p: grad.double() / scale for p, grad in zip(wanted, grads, strict=True)}
        whole = float(torch.stack([grad.norm() for grad in expected.values()]).norm())
        if not isfinite(whole):
            return False
        for p, total in zip(self._params, found.combined(padded), strict=True):
            if p not in expected:
                continue
            error, length = float((total - expected[p]).norm()), float(expected[p].norm())
            if error > tolerance * (length + 1e-2 * whole):
                raise NotImplementedError(
                    "`MatrixFree` should get gradients that autograd agrees with. Found a difference of "
                    f"{error:.1e} in `{self._names[p]}`, of length {length:.1e}: examples of a batch meet, or the weight is "
                    f"used in other ways, too. {_WAY_OUT}"
                )
        return True


@dataclass(frozen=True)
class _Brought:
    """A use, the gradient of its output, and how many entries of the first axis of its input each example has."""

    use: Use
    gradient: Tensor
    counts: list[int]

    @property
    def tolerance(self) -> float:
        return _AGREES.get(self.gradient.dtype, _AGREES_IN_LOW_PRECISION)

    def pieces(self, scale: float) -> dict[Tensor, Piece]:
        gradient = self.gradient if scale == 1 else self.gradient.float() / scale
        return self.use.pieces(gradient, self.counts)
