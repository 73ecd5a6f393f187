from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.engine import GradientEngine, sharded_like
from lightning_unlearn.readouts import Readout
from lightning_unlearn.selectors._base import Selector, selectable
from lightning_unlearn.selectors._losses import By, check_by


class Random(Selector):
    """Scores drawn at random: the control every other selector has to beat.

    Uniform in [0, 1), from the seed and the parameter's name alone: the same in every process and on every device,
    whatever other parameters there are. The global random generators are not used.

    Args:
        seed: Of the draw.
        by: Score whole tensors, or each element.

    Example:
        >>> scores = Random(seed=1).scores(torch.nn.Linear(2, 2))
        >>> list(scores), scores["weight"].shape
        (['weight', 'bias'], torch.Size([2, 2]))
    """

    def __init__(self, seed: int = 0, by: By = "element") -> None:
        check_by(by)
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
        return {name: self._score(name, param) for name, param in selectable(network).items()}

    def _score(self, name: str, param: Tensor) -> Tensor:
        digest = blake2b(f"{self.seed} {name}".encode(), digest_size=6).digest()
        # On the CPU: devices draw other numbers from the same seed. For a sharded parameter, every process draws all of it.
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "big"))
        shape = param.shape if self.by == "element" else ()
        drawn = torch.rand(shape, generator=generator).to(param.device)
        return sharded_like(drawn, param) if self.by == "element" else drawn

    def __repr__(self) -> str:
        return f"Random(seed={self.seed}, by={self.by!r})"
