from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.models.layers import name_fits, plain_name
from lightning_unlearn.transforms._gradient_transform import GradientTransform


class OnlyIn(GradientTransform):
    """Let the forget gradient into parameters of some names alone: elsewhere it is zero.

    The retain gradient goes everywhere. So forgetting has parameters of its own, such as the experts of :class:`Experts`
    that are there for it, while :class:`TrainOnly` would keep both gradients out of all others. Where the forget gradient
    is zero, an optimizer's momentum and decay go on.

    Args:
        patterns: ``fnmatch`` patterns of names of parameters, as in :class:`TrainOnly`.

    Raises:
        ValueError: When training starts, if no parameter fits.

    Example:
        >>> import torch
        >>> network = nn.Linear(2, 1)
        >>> only = OnlyIn(["bias"])
        >>> only.attach(network)
        >>> only([torch.ones(1, 2), torch.ones(1)], list(network.parameters()))
        [tensor([[0., 0.]]), tensor([1.])]
    """

    def __init__(self, patterns: str | Sequence[str]) -> None:
        self.patterns = [patterns] if isinstance(patterns, str) else list(patterns)
        self._inside: set[int] | None = None

    @override
    def attach(self, module: nn.Module) -> None:
        """Find the parameters."""
        named = module.named_parameters(remove_duplicate=False)
        self._inside = {id(p) for name, p in named if name_fits(plain_name(name), self.patterns)}
        if not self._inside:
            names = [f"`{plain_name(name)}`" for name, _ in module.named_parameters()]
            raise ValueError(
                f"`patterns` should fit names of parameters. Found none for {self.patterns}. There are "
                f"{', '.join(names[:6])}."
            )

    @override
    def changes(self, param: Tensor) -> bool:
        return self._inside is not None and id(param) not in self._inside

    @override
    def of(self, gradient: Tensor, param: Tensor) -> Tensor:
        return gradient.zero_()

    def __repr__(self) -> str:
        return f"OnlyIn({self.patterns})"
