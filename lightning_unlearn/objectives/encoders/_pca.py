from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch
from safetensors.torch import save_file
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.functional.settings import check_whole
from lightning_unlearn.objectives.encoders._encoder import StoredEncoder


class PCA(StoredEncoder):
    r"""Latents are the scores on principal components of hidden states: :math:`z = (h - m) V`.

    :func:`fit_pca` makes the file.

    Args:
        path: A ``.safetensors`` file with ``mean [D]`` and ``components [D, M]``.
    """

    names: ClassVar[tuple[str, ...]] = ("mean", "components")
    made_by: ClassVar[str] = "fit_pca(states, size, path)"
    mean: Tensor
    components: Tensor

    @override
    def forward(self, states: Tensor) -> Tensor:
        return (states - self.mean.to(states)) @ self.components.to(states)


def fit_pca(states: Tensor, size: int, path: str | Path) -> PCA:
    """The principal components of hidden states, saved at ``path``.

    Args:
        states: ``[N, D]``.
        size: How many components, the largest first; at most ``min(N, D)``.
        path: Where the file goes.

    Example:
        >>> import tempfile
        >>> line = torch.tensor([[0.0, 1.0], [0.0, 3.0], [0.0, 5.0]])
        >>> fit_pca(line, 1, f"{tempfile.mkdtemp()}/pca.safetensors")(line).abs()
        tensor([[2.],
                [0.],
                [2.]])
    """
    check_whole("size", size)
    if size > min(states.shape):
        raise ValueError(
            f"`size` should be at most {min(states.shape)}: there are {states.shape[0]} states of {states.shape[1]} "
            f"dimensions. Found `size = {size}`."
        )
    precise = states.detach().double()
    mean = precise.mean(0)
    _, _, rows = torch.linalg.svd(precise - mean, full_matrices=False)
    save_file({"mean": mean.float(), "components": rows[:size].T.float().contiguous()}, str(path))
    return PCA(path)
