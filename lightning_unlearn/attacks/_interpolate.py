from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from torch import nn
from typing_extensions import override

from lightning_unlearn.attacks._base import Attack, BatchLoss
from lightning_unlearn.attacks._knows_original import KnowsOriginal
from lightning_unlearn.attacks._perturbed import interpolated, refuse_flattened
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.functional.settings import check_between
from lightning_unlearn.models.layers import in_adapter


class Interpolate(KnowsOriginal, Attack):
    r"""Merge the network with the original: what people do with fine-tuned siblings, which never forgot.

    .. math:: \theta \leftarrow (1 - \alpha) \, \theta + \alpha \, \theta_0

    for all that training changes, floating-point buffers included. Of a fresh LoRA adapter the second factor alone is
    moved, so that what the adapter adds is scaled by :math:`1 - \alpha`; a later one is moved factor by factor, as in
    merging of adapters. A control whose base weights differ from those of the original is not moved in these.

    In a fit the original is what it starts from, kept on the CPU, as far as training changes it.

    Args:
        alpha: From 0, which changes nothing, to 1, the original itself.
        original: Weights of the original, where no fit shows it: a Lightning checkpoint, a ``.safetensors`` file, or a
            Hugging Face folder.

    Raises:
        ValueError: If the original is not known.
        NotImplementedError: Under FSDP1 and DeepSpeed.

    Example:
        >>> layer, attack = nn.Linear(1, 1, bias=False), Interpolate(alpha=0.25)
        >>> _ = layer.weight.data.fill_(8.0)
        >>> attack.see_original(layer)
        >>> _ = layer.weight.data.fill_(4.0)
        >>> with attack(layer) as points:
        ...     list(points), layer.weight.item()
        ([0.25], 5.0)
        >>> layer.weight.item()
        4.0

    References:
        Wortsman et al., `Robust fine-tuning of zero-shot models <https://arxiv.org/abs/2109.01903>`_, 2022, eq. 1.
    """

    family: ClassVar[str] = "merge"
    unit: ClassVar[str] = "alpha"

    def __init__(self, alpha: float = 0.3, original: str | None = None) -> None:
        check_between("alpha", alpha, 0, 1)
        super().__init__(original)
        self.alpha = alpha

    @override
    def share_reached(self, network: nn.Module) -> float:
        """The share of the trained weights that are moved; of what never trained there is nothing to go back to.

        First factors of fresh LoRA adapters count with the second ones, which scale their product.
        """
        moved = {id(m.tensor) for m in self.moved(network)}
        trained = [(n, p) for n, p in network.named_parameters() if p.requires_grad or id(p) in moved]
        reached = (p.numel() for n, p in trained if id(p) in moved or in_adapter(n))
        return sum(reached) / (sum(p.numel() for _, p in trained) or 1)

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
        refuse_flattened(GradientEngine(network) if engine is None else engine, "`Interpolate`")
        moved = self.moved(network)
        with interpolated(network, [m.tensor for m in moved], (m.original for m in moved), self.alpha):
            yield iter((self.alpha,))
