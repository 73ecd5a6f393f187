from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from lightning_unlearn.functional.rows import OuterProducts, Piece, ScatteredRows, WrittenOut
from lightning_unlearn.models.layers import eager_if_compiled


@dataclass(frozen=True)
class Use(ABC):
    """One operation of a forward pass that used parameters.

    Args:
        seen: Its input, with examples along the first axis.
        edge: The place in autograd's graph of the gradient of its output.
    """

    seen: Tensor
    edge: GradientEdge

    @property
    @abstractmethod
    def params(self) -> list[Tensor]:
        """All parameters of the operation, also those whose gradients are not needed."""

    @abstractmethod
    def pieces(self, gradient: Tensor, counts: Sequence[int]) -> dict[Tensor, Piece]:
        """What this operation adds to each example's gradient, by parameter.

        Args:
            gradient: Gradient of its output.
            counts: How many entries of the first axis of ``seen`` each example has.
        """


@dataclass(frozen=True)
class Product(Use):
    """Tokens were multiplied by a matrix, with or without a bias."""

    weight: Tensor
    bias: Tensor | None
    is_transposed: bool = False

    @property
    @override
    def params(self) -> list[Tensor]:
        return [self.weight] if self.bias is None else [self.weight, self.bias]

    @override
    def pieces(self, gradient: Tensor, counts: Sequence[int]) -> dict[Tensor, Piece]:
        tokens = [n * self.seen[:1, ..., 0].numel() for n in counts]
        inputs, gradients = self.seen.flatten(0, -2), gradient.flatten(0, -2)
        # The gradient is `[out, in]`: output gradient times input. Transposed weights, of `Conv1D`, are `[in, out]`.
        pair = (inputs, gradients) if self.is_transposed else (gradients, inputs)
        pieces: dict[Tensor, Piece] = {self.weight: OuterProducts(*pair, tokens)} if self.weight.requires_grad else {}
        if self.bias is not None and self.bias.requires_grad:
            dtype = torch.promote_types(gradients.dtype, torch.float32)  # a sum over tokens in bf16 would lose digits
            sums = [part.sum(0, dtype=dtype) for part in gradients.split(tokens)]
            pieces[self.bias] = WrittenOut(torch.stack(sums)[..., None])
        return pieces


@dataclass(frozen=True)
class LookUp(Use):
    """Rows of a table were looked up."""

    weight: Tensor
    padding: int | None

    @property
    @override
    def params(self) -> list[Tensor]:
        return [self.weight]

    @override
    def pieces(self, gradient: Tensor, counts: Sequence[int]) -> dict[Tensor, Piece]:
        index = self.seen.flatten()
        tokens = [n * self.seen[:1].numel() for n in counts]
        owner = torch.arange(len(tokens)).repeat_interleave(torch.tensor(tokens)).to(index.device)
        # `padding_idx` gets no gradient in torch; -1 is no index, so that without it nothing is left out.
        learns = index != (-1 if self.padding is None else self.padding)
        return {self.weight: ScatteredRows(index[learns], gradient.flatten(0, -2)[learns], owner[learns], len(counts))}


@dataclass(frozen=True)
class Small(Use):
    """A module with no parameters but vectors was called, such as a norm. It is run again, example by example."""

    module: nn.Module

    @property
    @override
    def params(self) -> list[Tensor]:
        return list(self.module.parameters(recurse=False))

    @override
    def pieces(self, gradient: Tensor, counts: Sequence[int]) -> dict[Tensor, Piece]:
        own = [p for p in self.params if p.requires_grad]
        by_example = []
        for x, gradient_of_x in zip(self.seen.split(list(counts)), gradient.split(list(counts)), strict=True):
            with torch.enable_grad():
                output = self.module.forward(x)  # `forward`: the user's hooks have run once already
            by_example.append(torch.autograd.grad(output, own, gradient_of_x.to(output.dtype), materialize_grads=True))
        stacked = [torch.stack(grads).reshape(len(counts), -1, 1) for grads in zip(*by_example, strict=True)]
        return {p: WrittenOut(rows) for p, rows in zip(own, stacked, strict=True)}


@contextmanager
def noted_uses(module: nn.Module, wanted: set[Tensor], size: int) -> Iterator[list[Use]]:
    """Record every operation of a forward pass that uses a parameter.

    Matrices are recorded in calls of ``F.linear``, ``torch.addmm`` and ``F.embedding``, in whatever module. Vectors are
    recorded as biases of these calls, and in modules that hold only vectors, such as norms. Compiled modules run eagerly
    meanwhile, since neither hooks nor function modes see into them.

    Args:
        module: The module with the parameters.
        wanted: The parameters whose uses are recorded.
        size: Number of examples of the batch. A look-up that is made once for all of them, such as that of positions, is
            repeated for each. Autograd would otherwise sum its gradient over the examples.

    Example:
        >>> layer = nn.Linear(2, 3)
        >>> with noted_uses(layer, set(layer.parameters()), size=1) as uses:
        ...     _ = layer(torch.ones(1, 2))
        >>> [type(use).__name__ for use in uses]
        ['Product']
    """
    uses: list[Use] = []
    small = [m for m in module.modules() if _is_small(m) and wanted.intersection(m.parameters(recurse=False))]
    handles = [m.register_forward_hook(_note_small(uses), with_kwargs=True) for m in small]
    try:
        with eager_if_compiled(module), _Noting(uses, wanted, size):
            yield uses
    finally:
        for handle in handles:
            handle.remove()


class _Noting(TorchFunctionMode):
    """Records the calls of linear maps and look-ups."""

    def __init__(self, uses: list[Use], wanted: set[Tensor], size: int) -> None:
        super().__init__()
        self._uses, self._wanted, self._size = uses, wanted, size

    @override
    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        # A function mode sees the call itself, whatever module makes it: peft and transformers call `F.linear` in their own.
        if func not in (F.linear, F.embedding, torch.addmm) or not self._wanted.intersection(_tensors(args)):
            return func(*args, **kwargs)
        if func is F.embedding and args[0].dim() > 1 and len(args[0]) == 1:
            args = (args[0].expand(self._size, *args[0].shape[1:]), *args[1:])
        output: Tensor = func(*args, **kwargs)
        # Called with keyword arguments or on a single vector, a layer is not recorded. Its parameter then counts as one
        # that is used in a way we do not cover, and is refused by name.
        if output.requires_grad and output.dim() > 1 and (not kwargs or func is F.embedding):
            self._uses.append(_use(func, args, kwargs, output))
        return output


def _use(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Use:
    edge = get_gradient_edge(output)
    if func is F.embedding:
        return LookUp(args[0], edge, weight=args[1], padding=kwargs.get("padding_idx"))  # torch passes settings by name
    if func is F.linear:
        return Product(_as_used(args[0], output), edge, weight=args[1], bias=args[2] if len(args) > 2 else None)
    return Product(_as_used(args[1], output), edge, weight=args[2], bias=args[0], is_transposed=True)


def _note_small(uses: list[Use]) -> Callable[..., None]:
    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        inputs = [*args, *kwargs.values()]
        if (
            len(inputs) == 1
            and isinstance(output, Tensor)
            and output.requires_grad
            and _share_first_axis(inputs[0], output)
        ):
            uses.append(Small(inputs[0].detach(), get_gradient_edge(output), module))

    return note


def _share_first_axis(seen: Any, output: Tensor) -> bool:
    # Otherwise examples are not along the first axis, and the input cannot be split by example.
    return isinstance(seen, Tensor) and seen.dim() > 0 and output.shape[:1] == seen.shape[:1]


def _is_small(module: nn.Module) -> bool:
    return not any(True for _ in module.children()) and all(p.dim() < 2 for p in module.parameters(recurse=False))


def _as_used(inputs: Tensor, output: Tensor) -> Tensor:
    """Under autocast, inputs are cast to the dtype of the output before they are multiplied."""
    return inputs.detach().to(output.dtype)


def _tensors(args: Iterable[Any]) -> list[Tensor]:
    return [a for a in args if isinstance(a, Tensor)]
