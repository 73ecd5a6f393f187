from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.attacks._base import Attack, BatchLoss
from lightning_unlearn.attacks._perturbed import interpolated, refuse_flattened
from lightning_unlearn.engine import GradientEngine, sharded_like
from lightning_unlearn.functional.settings import check_between
from lightning_unlearn.models import load_weights
from lightning_unlearn.models.layers import in_adapter
from lightning_unlearn.runtime import local


class Merge(Attack):
    r"""Merge the network with a sibling: the base model, or another fine-tune of it, of which there is a file.

    .. math:: \theta \leftarrow (1 - \alpha) \, \theta + \alpha \, \theta_s

    for every weight, frozen ones and floating-point buffers included. A negative ``alpha`` goes away from the sibling,
    :math:`\theta + |\alpha| \, (\theta - \theta_s)`: it subtracts the way to a model that has forgotten, too. For the
    model that the fit starts from there is :class:`Interpolate`, which needs no file.

    A sibling without an adapter fits a network with LoRA: its weights meet the base, and the second factor is scaled by
    :math:`1 - \alpha`, which is the merge of the merged models. Two adapters are merged factor by factor.

    Args:
        sibling: Weights of the sibling: a Lightning checkpoint, a ``.safetensors`` file, or a Hugging Face folder.
        alpha: From -1 to 1; 0 changes nothing, 1 is the sibling itself.

    Raises:
        FileNotFoundError: If there is nothing at ``sibling``.
        ValueError: If it does not hold the weights of such a network.
        NotImplementedError: Under FSDP1 and DeepSpeed.

    Example:
        >>> import tempfile, torch
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> _ = layer.weight.data.fill_(8.0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save(layer.state_dict(), f"{folder}/sibling.pt")
        ...     _ = layer.weight.data.fill_(4.0)
        ...     with Merge(f"{folder}/sibling.pt", alpha=0.25)(layer) as points:
        ...         list(points), layer.weight.item()
        ([0.25], 5.0)
        >>> layer.weight.item()
        4.0

    References:
        Wortsman et al., `Model soups <https://arxiv.org/abs/2203.05482>`_, 2022; Ilharco et al., `Editing Models with Task
        Arithmetic <https://arxiv.org/abs/2212.04089>`_, 2023, for negative weights.
    """

    family: ClassVar[str] = "merge"
    unit: ClassVar[str] = "alpha"

    def __init__(self, sibling: str, alpha: float = 0.5) -> None:
        if not isinstance(sibling, str) or not sibling:
            raise TypeError(f"`sibling` should be the path of weights, as text. Found `sibling = {sibling!r}`.")
        check_between("alpha", alpha, -1, 1)
        self.sibling, self.alpha = sibling, alpha
        self._read: tuple[nn.Module, dict[str, Tensor]] | None = None

    @override
    def share_reached(self, network: nn.Module) -> float:
        """The share of the parameters that are merged; first factors of adapters count with the second ones."""
        merged = {id(tensor) for tensor, _ in self._pairs(network)}
        named = list(network.named_parameters())
        reached = (p.numel() for name, p in named if id(p) in merged or in_adapter(name))
        return sum(reached) / (sum(p.numel() for _, p in named) or 1)

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
        refuse_flattened(GradientEngine(network) if engine is None else engine, "`Merge`")
        pairs = self._pairs(network)
        others = (local(sharded_like(value.to(tensor.device), tensor)) for tensor, value in pairs)
        with interpolated(network, [tensor for tensor, _ in pairs], others, self.alpha):
            yield iter((self.alpha,))

    def _pairs(self, network: nn.Module) -> list[tuple[Tensor, Tensor]]:
        """Each floating-point tensor of the network, once, with that of the sibling."""
        # Read once: a check attacks the same network again and again.
        if self._read is None or self._read[0] is not network:
            self._read = network, load_weights(self.sibling, network)
        own = {**dict(network.named_parameters(remove_duplicate=False)), **dict(network.named_buffers())}
        pairs = {id(own[name]): (own[name], value) for name, value in self._read[1].items() if name in own}
        return [(tensor, value) for tensor, value in pairs.values() if tensor.is_floating_point()]
