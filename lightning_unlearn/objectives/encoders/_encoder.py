from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.models import read_weights


class Encoder(nn.Module, ABC):
    """A frozen map from hidden states to latents, for :class:`EncodedMatch`. It is differentiable, and has no parameters.

    A new one is a subclass with a ``forward``. What it needs to know it keeps in buffers: a buffer gets no gradient and
    moves to the device with the objective. Register it with ``persistent=False``, or each checkpoint holds it again.

    Example:
        >>> class Halved(Encoder):
        ...     def forward(self, states):
        ...         return states / 2
        >>> import torch
        >>> Halved()(torch.ones(1, 3))
        tensor([[0.5000, 0.5000, 0.5000]])
    """

    @abstractmethod
    def forward(self, states: Tensor) -> Tensor:
        """The latents ``[N, M]`` of hidden states ``[N, D]``, with a graph."""

    @override
    def __repr__(self) -> str:
        """Name and settings, as they are written in code."""
        settings = {name: value for name, value in vars(self).items() if name[0] != "_" and name != "training"}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in settings.items())})"


class StoredEncoder(Encoder):
    """An encoder whose tensors are in a file.

    Args:
        path: A ``.safetensors`` file, as the function that makes the encoder has saved it.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds other tensors.
    """

    names: ClassVar[tuple[str, ...]]
    made_by: ClassVar[str]

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = str(path)
        tensors = read_weights(path)
        self._refuse_others(tensors)
        for name in self.names:
            self.register_buffer(name, tensors[name], persistent=False)

    def _refuse_others(self, tensors: Mapping[str, Tensor]) -> None:
        if set(tensors) != set(self.names):
            raise ValueError(
                f"`{type(self).__name__}` should find the tensors {', '.join(f'`{name}`' for name in self.names)}. Found "
                f"{', '.join(f'`{name}`' for name in sorted(tensors))} in {self.path!r}. `{self.made_by}` makes such a file."
            )
