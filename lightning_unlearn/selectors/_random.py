from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Any, Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.engine import GradientEngine, sharded_like
from lightning_unlearn.models.layers import blocks, own_matrices
from lightning_unlearn.readouts import Readout
from lightning_unlearn.selectors._base import Selector, selectable
from lightning_unlearn.selectors._condition_number import trained_by

What = Literal["element", "tensor", "matrix", "block"]


class Random(Selector):
    """Scores drawn at random: the control every other selector has to beat.

    Uniform in [0, 1), from the seed and the parameter's name alone: the same in every process and on every device,
    whatever other parameters there are. The global random generators are not used.

    A control should draw among what the selector beside it chooses from: matrices beside :class:`ConditionNumber`, blocks
    beside :class:`LastLayers`, :class:`LayerAblation` and :class:`CausalTrace`. Otherwise it may draw norms and biases, and
    lose for that alone.

    Args:
        seed: Of the draw.
        by: Score each element, whole tensors, the tensors of whole matrices alone, or blocks, all of whose tensors have one
            score (:func:`lightning_unlearn.models.layers.blocks`). What is in no matrix, or in no block, has then no score.

    Example:
        >>> scores = Random(seed=1).scores(torch.nn.Linear(2, 2))
        >>> list(scores), scores["weight"].shape
        (['weight', 'bias'], torch.Size([2, 2]))
        >>> list(Random(by="matrix").scores(torch.nn.Sequential(torch.nn.LayerNorm(2), torch.nn.Linear(2, 2))))
        ['1.weight']
    """

    def __init__(self, seed: int = 0, by: What = "element") -> None:
        if by not in ("element", "tensor", "matrix", "block"):
            raise ValueError(f'`by` should be "element", "tensor", "matrix" or "block". Found `by = {by!r}`.')
        self.seed, self.by = seed, by

    @override
    def scores(
        self,
        network: nn.Module,
        *,
        forget: Sequence[Any] = (),
        retain: Sequence[Any] = (),
        readout: Readout | None = None,
        engine: GradientEngine | None = None,
    ) -> dict[str, Tensor]:
        units = dict(self._units(network))
        named = selectable(network).items()
        return {name: self._score(units[id(param)], param) for name, param in named if id(param) in units}

    def _units(self, network: nn.Module) -> Iterator[tuple[int, str]]:
        """By parameter, the name of what is drawn for it."""
        if self.by == "block":
            # From the last to the first: a parameter of several blocks counts where it is used first, as in `LastLayers`.
            for name, block in reversed(blocks(network).items()):
                yield from ((id(param), name) for param in block.parameters())
            return
        names = {id(param): name for name, param in selectable(network).items()}
        if self.by == "matrix":
            trained = {id(param) for matrix in own_matrices(network) for param in trained_by(matrix)}
            names = {key: name for key, name in names.items() if key in trained}
        yield from names.items()

    def _score(self, unit: str, param: Tensor) -> Tensor:
        digest = blake2b(f"{self.seed} {unit}".encode(), digest_size=6).digest()
        # On the CPU: devices draw other numbers from the same seed. For a sharded parameter, every process draws all of it.
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "big"))
        shape = param.shape if self.by == "element" else ()
        drawn = torch.rand(shape, generator=generator, dtype=torch.float32).to(param.device)
        return sharded_like(drawn, param) if self.by == "element" else drawn

    def __repr__(self) -> str:
        return f"Random(seed={self.seed}, by={self.by!r})"
