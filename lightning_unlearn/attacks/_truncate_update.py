from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.attacks._base import Attack, BatchLoss
from lightning_unlearn.attacks._knows_original import KnowsOriginal
from lightning_unlearn.attacks._perturbed import in_full, refuse_flattened, restored
from lightning_unlearn.engine import GradientEngine, gathered, sharded_like, with_local
from lightning_unlearn.functional.low_rank import truncated, truncated_product
from lightning_unlearn.functional.settings import check_whole
from lightning_unlearn.models.layers import Layout, low_rank_factors, matrices
from lightning_unlearn.runtime import local


class TruncateUpdate(KnowsOriginal, Attack):
    r"""Keep only the largest directions of what training has changed, as in storing a fine-tune as a low-rank difference.

    .. math:: W \leftarrow W_0 + U_r \Sigma_r V_r^\top, \qquad U \Sigma V^\top = W - W_0

    for each matrix that trains, embeddings included; stacked experts one by one. What training changed in vectors, and in
    weights that are computed in each forward pass, stays. Of a fresh LoRA adapter the product of both factors is truncated.
    Forgetting that is spread over many small directions is undone.

    In a fit the original is what it starts from, kept on the CPU, as far as training changes it. Under FSDP2 each matrix is
    gathered, one at a time.

    Args:
        rank: How many directions of each matrix are kept; 0 for none.
        original: Weights of the original, where no fit shows it: a Lightning checkpoint, a ``.safetensors`` file, or a
            Hugging Face folder.

    Raises:
        ValueError: If the original is not known, no matrix trains, or a LoRA adapter had been trained before the fit.
        NotImplementedError: Under FSDP1 and DeepSpeed.

    Example:
        >>> layer, attack = nn.Linear(2, 2, bias=False), TruncateUpdate(rank=1)
        >>> _ = layer.weight.data.fill_(0.0)
        >>> attack.see_original(layer)
        >>> _ = layer.weight.data.copy_(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
        >>> with attack(layer) as points:
        ...     list(points), layer.weight.tolist()
        ([1], [[3.0, 0.0], [0.0, 0.0]])
        >>> layer.weight.tolist()
        [[3.0, 0.0], [0.0, 1.0]]

    References:
        Ryu et al., `Efficient Storage of Fine-Tuned Models via Low-Rank Approximation of Weight Residuals
        <https://arxiv.org/abs/2305.18425>`_, 2023.
    """

    family: ClassVar[str] = "compress"
    unit: ClassVar[str] = "rank"

    def __init__(self, rank: int = 8, original: str | None = None) -> None:
        check_whole("rank", rank, least=0)
        super().__init__(original)
        self.rank = rank

    @override
    @contextmanager
    def __call__(
        self,
        network: nn.Module,
        *,
        batches: Iterable[Any] = (),
        loss: BatchLoss | None = None,
        engine: GradientEngine | None = None,
    ) -> Iterator[Iterator[int]]:
        refuse_flattened(GradientEngine(network) if engine is None else engine, "`TruncateUpdate`")
        originals = {id(m.tensor): m.original for m in self.moved(network)}
        trained, factors = _trained(network, originals), _factors(network, originals)
        if not trained and not factors:
            raise ValueError(
                f"`TruncateUpdate` should find matrices that train. Found none in `{type(network).__name__}`. Unfreeze "
                "some, or leave the attack out."
            )
        changed = [*(weight for weight, _ in trained), *(f for pair in factors for f in pair)]
        with restored(network, changed, store="cpu"):
            with torch.inference_mode(False), torch.no_grad():
                for weight, layout in trained:
                    self._truncate_(weight, layout, originals[id(weight)])
                for first, second in factors:
                    self._truncate_factors_(first, second)
            yield iter((self.rank,))

    @override
    def share_reached(self, network: nn.Module) -> float:
        """The share of the trained weights that belong to matrices that are truncated."""
        originals = {id(m.tensor): m.original for m in self.moved(network)}
        pairs = _factors(network, originals)
        reached = [*(weight for weight, _ in _trained(network, originals)), *(f for pair in pairs for f in pair)]
        total = sum(p.numel() for p in network.parameters() if p.requires_grad or id(p) in originals)
        return sum(p.numel() for p in reached) / total if total else 0.0

    def _truncate_(self, weight: Tensor, layout: Layout, original: Tensor) -> None:
        now = local(weight).data
        start = original.to(now.device, in_full(now))
        update = gathered(with_local(weight, now.to(start.dtype) - start))
        ordered = layout.view(update)
        rows = ordered.flatten(layout.stacked + 1)
        if self.rank >= min(rows.shape[-2:]):
            return  # all of it is kept, to the bit
        kept = torch.empty_like(update)
        layout.view(kept).copy_(truncated(rows, self.rank).reshape(ordered.shape))
        now.copy_(start + local(sharded_like(kept, weight)))

    def _truncate_factors_(self, first: Tensor, second: Tensor) -> None:
        if self.rank >= len(first):
            return
        factors = truncated_product(gathered(second.detach()), gathered(first.detach()), self.rank)
        for p, whole in zip((second, first), factors, strict=True):
            local(p).data.copy_(local(sharded_like(whole, p)))


def _trained(network: nn.Module, originals: dict[int, Tensor]) -> list[tuple[Tensor, Layout]]:
    """The matrices that train and are parameters themselves, without those of adapters."""
    own = (m for m in matrices(network) if m.factor_of is None and not m.is_computed)
    return [(m.tensor, m.layout) for m in own if id(m.tensor) in originals]


def _factors(network: nn.Module, originals: dict[int, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """The factors of fresh LoRA adapters, first and second."""
    found = []
    for pair in low_rank_factors(network):
        first: Any = pair.first.weight
        second: Any = pair.second.weight
        if id(second) not in originals or first.dim() != 2:
            continue
        if originals[id(second)].any():
            raise ValueError(
                "`TruncateUpdate` should find LoRA adapters that began at zero, so that what they add is the update. Found "
                f"`{pair.name}`, which had been trained before. Merge it into the base first, or leave the attack out."
            )
        found.append((first, second))
    return found
