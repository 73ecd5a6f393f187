"""Logits of an output head that are not computed before somebody asks for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_map_only
from typing_extensions import override

Step = Callable[[Tensor], Tensor]

_FACTS = {
    Tensor.shape.__get__,  # type: ignore[attr-defined]
    Tensor.dtype.__get__,  # type: ignore[attr-defined]
    Tensor.device.__get__,
    Tensor.ndim.__get__,  # type: ignore[attr-defined]
    Tensor.size,
    Tensor.dim,
    Tensor.numel,
    Tensor.__len__,
    Tensor.is_floating_point,
}
_BY_ELEMENT = {
    *(Tensor.mul, Tensor.div, Tensor.add, Tensor.sub, Tensor.true_divide, Tensor.tanh),
    *(Tensor.float, Tensor.to, Tensor.contiguous),
    *(Tensor.__mul__, Tensor.__rmul__, Tensor.__truediv__, Tensor.__add__, Tensor.__radd__, Tensor.__sub__),
    *(torch.mul, torch.div, torch.add, torch.sub, torch.true_divide, torch.tanh),
}


class HeadLogits(Tensor):
    r"""Logits ``[N, V]`` of a linear head, as hidden states and weight: :math:`f(h W^\top + b)`.

    What a model does to each of them behind its head (scaling, a soft cap, another type) is taken down as :math:`f`.
    Everything else computes the logits, once, and goes on with them: so a function that knows nothing of this class gets
    what it wants. :func:`~lightning_unlearn.functional.chunks.in_chunks` goes through them in chunks of rows.

    Args:
        hidden: Hidden states, ``[N, D]``.
        weight: Of the head, ``[V, D]``. It must stay as it is until the logits are used.
        bias: Of the head, ``[V]``.
        dtype: In which the product is taken: of the weight, or that of mixed precision.
        elements: The most logits that should exist at once.
        behind: :math:`f`, step by step.

    Example:
        >>> logits = HeadLogits(torch.ones(2, 3), torch.ones(5, 3)) / 2
        >>> type(logits).__name__, logits.shape
        ('HeadLogits', torch.Size([2, 5]))
        >>> logits.sum()
        tensor(15.)
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    product_dtype: torch.dtype
    elements: int
    behind: tuple[Step, ...]
    _known: Tensor | None
    _version_then: int
    _has_graph: bool

    @staticmethod
    def __new__(  # noqa: D102
        cls: type[Self],
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        dtype: torch.dtype | None = None,
        elements: int = 1 << 25,
        behind: tuple[Step, ...] = (),
    ) -> Self:
        product = weight.dtype if dtype is None else dtype
        # Asked of no rows at all: a step behind the head may give another type.
        made = through(behind, hidden.new_empty(0, len(weight), dtype=product)).dtype
        # It requires no gradient itself: what does not go through `__torch_function__` would lose it silently.
        logits = Tensor._make_wrapper_subclass(cls, (len(hidden), len(weight)), dtype=made, device=hidden.device)
        logits.hidden, logits.weight, logits.bias, logits.behind = hidden, weight, bias, behind
        logits.product_dtype, logits.elements = product, elements
        logits._version_then, logits._known = _version(weight), None
        # Read without a graph, they have none later either, though the weight is trained.
        logits._has_graph = torch.is_grad_enabled()
        return logits

    @classmethod
    @override
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        first, kwargs = args[0] if args else None, kwargs or {}
        if isinstance(first, HeadLogits) and first.is_put_off:
            if func in _BY_ELEMENT and not _any_tensor(args[1:], kwargs) and _keeps_device(args, kwargs):
                return first._with(behind=(*first.behind, lambda z: func(z, *args[1:], **kwargs)))
            if func is Tensor.detach:
                return first.constant()
            if func is Tensor.__getitem__ and _picks_rows(args[1]):
                return first._with(hidden=first.hidden[args[1]])
        with torch._C.DisableTorchFunctionSubclass():
            if func in _FACTS:
                return func(*args, **kwargs)
            return func(*tree_map_only(HeadLogits, whole, args), **tree_map_only(HeadLogits, whole, kwargs))

    @classmethod
    @override
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        return func(*tree_map_only(HeadLogits, whole, args), **tree_map_only(HeadLogits, whole, kwargs or {}))

    def parts(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Hidden states, weight and bias.

        Raises:
            RuntimeError: If the weight has changed since the network was read.
        """
        if _version(self.weight) != self._version_then:
            raise RuntimeError(
                "Logits that were put off should be used before the head's weight changes. Found that it has changed since "
                "the network was read. Take `Prediction.logits` before."
            )
        if self._has_graph:
            return self.hidden, self.weight, self.bias
        return self.hidden.detach(), self.weight.detach(), None if self.bias is None else self.bias.detach()

    @property
    def is_put_off(self) -> bool:
        """Whether nobody has asked for all of them yet."""
        return self._known is None

    @property
    def trains(self) -> bool:
        """Whether a gradient can go through them."""
        return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in self.parts())

    def constant(self) -> HeadLogits:
        """The same without a graph."""
        bias = None if self.bias is None else self.bias.detach()
        return self._with(hidden=self.hidden.detach(), weight=self.weight.detach(), bias=bias)

    def of(self, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> HeadLogits:
        """Those of other hidden states, weight and bias."""
        return self._with(hidden=hidden, weight=weight, bias=bias)

    def _with(self, **changed: Any) -> HeadLogits:
        hidden, weight, bias = self.parts()
        given = {"hidden": hidden, "weight": weight, "bias": bias, "behind": self.behind, **changed}
        return HeadLogits(**given, dtype=self.product_dtype, elements=self.elements)

    def whole(self) -> Tensor:
        """All of them, with their graph; computed at the first call."""
        known = self._known
        if known is None:
            known = self._known = through(self.behind, product(self.product_dtype, *self.parts()))
        return known


def whole(logits: Tensor) -> Tensor:
    """The logits themselves, computed if they were not yet."""
    return logits.whole() if isinstance(logits, HeadLogits) else logits


def product(dtype: torch.dtype, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The head's own logits, ``[N, V]``, computed in ``dtype``."""
    # Without autocast: the types are those of the time when the network was read.
    with torch.autocast(hidden.device.type, enabled=False):
        return F.linear(hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))


def through(steps: tuple[Step, ...], logits: Tensor) -> Tensor:
    """What the model makes of its head's logits."""
    for step in steps:
        logits = step(logits)
    return logits


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _any_tensor(args: Any, kwargs: Any) -> bool:
    return any(isinstance(value, Tensor) for value in (*args, *kwargs.values()))


def _keeps_device(args: Any, kwargs: Any) -> bool:
    return not any(isinstance(value, (torch.device, str)) for value in (*args[1:], *kwargs.values()))


def _picks_rows(index: Any) -> bool:
    return isinstance(index, Tensor) and index.dim() == 1 and index.dtype in (torch.bool, torch.int64)
