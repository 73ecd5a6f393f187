from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Any, Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.engine import GradientEngine, gathered
from lightning_unlearn.models.layers import Matrix, own_matrices
from lightning_unlearn.readouts import Readout
from lightning_unlearn.selectors._base import Selector, selectable


class ConditionNumber(Selector):
    r"""Scores whole matrices by how well they are conditioned. It needs no data.

    .. math:: \kappa(W) = \frac{\sigma_1}{\max(\sigma_n, \epsilon \, \sigma_1)}, \qquad \epsilon = 2^{-23} \max(m, n)

    So :math:`\kappa(cW) = \kappa(W)`, also of matrices without full rank. Convolutions are one row per output; of stacked
    experts it is the mean over the experts; weights in few bits are dequantised. Vectors and embeddings have no score. Under
    LoRA the factors around a matrix have the score of that matrix. Costs one singular value decomposition for each matrix,
    in float32.

    **Much of it is shape.** A matrix of random numbers is well conditioned if it is far from square, and badly if it is
    square: the plain number sorts layers by their shape first. ``shape_matched=True`` divides by the number of a Gaussian
    matrix of the same shape. Whether unlearning should happen in well or in badly conditioned matrices is an open question:
    those of low number are said to hold the least specialised knowledge, so that unlearning there may merely hide what must
    go. Compare with :class:`Random` by tensor.

    Args:
        choose: Which score high: the ``"lowest"`` numbers, as published (scores are negative), or the ``"highest"``.
        shape_matched: Compare with a random matrix of the same shape.

    Raises:
        ValueError: When it scores, if there is no matrix that can be trained.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> _ = layer.weight.data.copy_(torch.tensor([[4.0, 0.0], [0.0, 2.0]]))
        >>> ConditionNumber(choose="highest").scores(layer)
        {'weight': tensor(2.)}

    References:
        da Silva, `KappaTune <https://arxiv.org/abs/2506.16289>`_, 2025, and its code; ``peft.utils.target_selection``.
    """

    def __init__(self, choose: Literal["lowest", "highest"] = "lowest", shape_matched: bool = False) -> None:
        if choose not in ("lowest", "highest"):
            raise ValueError(f'`choose` should be "lowest" or "highest". Found `choose = {choose!r}`.')
        self.choose, self.shape_matched = choose, shape_matched

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
        names = {id(p): name for name, p in selectable(network).items()}
        found: dict[str, Tensor] = {}
        expected: dict[torch.Size, Tensor] = {}
        for matrix in own_matrices(network):
            trained = [names[id(p)] for p in trained_by(matrix) if id(p) in names]
            if trained:
                found.update(dict.fromkeys(trained, self._score(matrix, expected)))
        if not found:
            raise ValueError(
                "`ConditionNumber` should find a matrix that can be trained, by itself or by an adapter. Found none. "
                "Unfreeze some, or use another selector."
            )
        return found

    @torch.no_grad()
    def _score(self, matrix: Matrix, expected: dict[torch.Size, Tensor]) -> Tensor:
        # Whole: singular values are those of the whole matrix.
        weight = matrix.layout.view(gathered(matrix.tensor.detach())).float()
        ordered = weight.flatten(matrix.layout.stacked + 1)
        number = condition_number(ordered).mean()
        if self.shape_matched:
            shape = ordered.shape[-2:]
            if shape not in expected:
                expected[shape] = condition_number(_gaussian(shape).to(number.device))
            number = number / expected[shape]
        return number if self.choose == "highest" else -number

    def __repr__(self) -> str:
        return f"ConditionNumber(choose={self.choose!r}, shape_matched={self.shape_matched})"


def condition_number(matrices: Tensor) -> Tensor:
    """Of each of ``matrices``, ``[..., m, n]`` float32, the largest over the smallest of ``min(m, n)`` singular values.

    Finite, also for a matrix of zeros, which counts as one without full rank.
    """
    values = torch.linalg.svdvals(matrices)
    least = torch.finfo(matrices.dtype).eps * max(matrices.shape[-2:])
    relative = (values[..., -1] / values[..., 0]).nan_to_num(0.0)
    number: Tensor = relative.clamp_min(least).reciprocal()
    return number


def trained_by(matrix: Matrix) -> Iterator[Tensor]:
    """What moves the matrix: its own parameters, and the factors of adapters around it."""
    yield from matrix.parameters
    for adapter in matrix.adapters:
        yield from (p for name, p in adapter.named_parameters() if not name.startswith("base_layer."))


def _gaussian(shape: torch.Size) -> Tensor:
    # On the CPU, by a seed of the shape: the same in every process and on every device.
    seed = int.from_bytes(blake2b(repr(tuple(shape)).encode(), digest_size=6).digest(), "big")
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
