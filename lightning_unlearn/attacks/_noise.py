from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.attacks._base import Attack, BatchLoss
from lightning_unlearn.attacks._perturbed import move_, refuse_flattened, restored, trainable
from lightning_unlearn.engine import GradientEngine, sharded_like, sum_by_scope
from lightning_unlearn.functional.settings import check_not_negative, check_whole
from lightning_unlearn.models.layers import trained_share
from lightning_unlearn.runtime import local


class Noise(Attack):
    r"""Add Gaussian noise to the weights. As a vantage point of forgetting it is random smoothing.

    .. math:: w \leftarrow w + \sigma \, \mathrm{rms}(W) \, z, \qquad z \sim \mathcal{N}(0, 1)

    for each trainable parameter :math:`W`. The noise is relative to the root mean square of its tensor, so that one
    ``sigma`` means the same for models of any size and layers of any scale; a tensor of zeros stays as it is. With a LoRA
    adapter the noise is on its factors. It is drawn for whole tensors on the device of each, so that replicas, and shards
    of FSDP2, get the noise that one process would.

    Args:
        sigma: Size of the noise, relative to each tensor's own. Rounding to bf16 is noise of about 0.002.
        seed: Of the noise, whatever the global random state. Drawn anew as a vantage point.

    Raises:
        ValueError: If nothing is trainable.
        NotImplementedError: Under FSDP1 and DeepSpeed.

    Example:
        >>> layer = nn.Linear(400, 400, bias=False)
        >>> before = layer.weight.detach().clone()
        >>> with Noise(sigma=0.5)(layer) as points:
        ...     print(list(points), f"{((layer.weight - before).norm() / before.norm()).item():.1f}")
        [0.5] 0.5
        >>> torch.equal(layer.weight, before)
        True

    References:
        Fan et al., `Towards LLM Unlearning Resilient to Relearning Attacks <https://arxiv.org/abs/2502.05374>`_, 2025,
        whose noise has one size for all tensors.
    """

    family: ClassVar[str] = "noise"
    unit: ClassVar[str] = "sigma"

    def __init__(self, sigma: float = 0.01, seed: int = 0) -> None:
        check_not_negative("sigma", sigma)
        check_whole("seed", seed, least=0)
        self.sigma, self.seed = sigma, seed

    @override
    def drawn(self, generator: torch.Generator) -> Noise:
        """Noise of the same size, from another seed."""
        return Noise(self.sigma, int(torch.randint(2**31, (), generator=generator)))

    @override
    def share_reached(self, network: nn.Module) -> float:
        """The share of the weights of matrices, embeddings aside, that train, themselves or through an adapter."""
        return trained_share(network)

    @override
    @contextmanager
    def __call__(
        self,
        network: nn.Module,
        *,
        batches: Iterable[Any] = (),
        loss: BatchLoss | None = None,
        engine: GradientEngine | None = None,
    ) -> Iterator[Iterator[float]]:
        refuse_flattened(GradientEngine(network) if engine is None else engine, "`Noise`")
        params = trainable(network, "`Noise`")
        with restored(network, params):
            move_(params, self._drawn_for(params), "`Noise`")
            yield iter((self.sigma,))

    def _drawn_for(self, params: list[Tensor]) -> Iterator[Tensor]:
        generators: dict[torch.device, torch.Generator] = {}
        for p, size in zip(params, _root_mean_squares(params), strict=True):
            if p.device not in generators:
                generators[p.device] = torch.Generator(p.device).manual_seed(self.seed)
            # Whole, on each process: a shard of the noise that one process would draw.
            whole = torch.randn(p.shape, generator=generators[p.device], device=p.device, dtype=torch.float32)
            yield local(sharded_like(whole, p)).mul_(self.sigma * size)


def _root_mean_squares(params: list[Tensor]) -> list[float]:
    with torch.inference_mode(False), torch.no_grad():
        sums = (torch.linalg.vector_norm(local(p).detach(), dtype=torch.float64).square() for p in params)
        squares = sum_by_scope(sums, params, range(len(params)), len(params))
    return [(total / max(p.numel(), 1)) ** 0.5 for total, p in zip(squares.tolist(), params, strict=True)]
