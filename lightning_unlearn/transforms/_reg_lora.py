from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.engine import GradientEngine, refuse_manual_optimization, strategy_kind, unscaled
from lightning_unlearn.functional.entries import mean_size_of_entries
from lightning_unlearn.functional.settings import check_between, check_not_negative
from lightning_unlearn.runtime import written_whole
from lightning_unlearn.transforms._protected_entries import products_of, protected_entries


class RegLoRA(pl.Callback):
    r"""Keep a new adapter off the entries of the weights that earlier ones have changed most: for requests in turn.

    .. math:: \lambda \, \frac{1}{L} \sum_{l=1}^{L} \frac{1}{|\Omega_l|} \sum_{(i, j) \in \Omega_l} |(B_l A_l)_{ij}|

    is added to what the fit minimises. When a fit ends, the ``share`` of the entries of each :math:`B_l A_l` of the largest
    size joins :math:`\Omega_l`, which is written to ``file`` for the next one. Entries that several adapters changed count
    several times, as published. Between two fits, :func:`fold_adapter_` puts what was learned into the weights, and begins a
    fresh adapter in its place. In a :class:`RequestSequence`, whose requests may be carried out again, set :attr:`protected`
    from the adapters that it keeps: see :func:`protected_by`.

    Its gradient is added when those of the fit are complete, and before they are clipped. Put it behind :class:`Unlearn`:
    then it is no part of the retain gradient, and no projector takes it for one. Only the protected entries of the product
    are computed.

    Logged each step: ``reg_lora/penalty``.

    Args:
        file: Where protected entries are, a ``.safetensors`` file; read when a fit starts, if it is there, and written when
            it ends. Without it a fit protects nothing, and :attr:`protected` can be set by hand.
        weight: :math:`\lambda`.
        share: Of the entries of each product.

    Attributes:
        protected: Rows and columns by the name of a layer, ``[n, 2]`` int64 each.

    Raises:
        NotImplementedError: In ``setup``, under strategies that shard, or manual optimization.
        ValueError: When training starts, if there is no plain LoRA adapter, or protected entries are of other layers.

    Example:
        >>> callback = RegLoRA("runs/protected.safetensors")  # Trainer(callbacks=[unlearn, callback])

    References:
        Chen et al., `SEFE: Superficial and Essential Forgetting Eliminator <https://arxiv.org/abs/2505.02486>`_, 2025,
        eq. 5, by its code: ``weight=2.5e3``, ``share=0.02``, the scale of LoRA left out.
    """

    def __init__(self, file: str | None = None, weight: float = 2.5e3, share: float = 0.02) -> None:
        check_not_negative("weight", weight)
        check_between("share", share, 0, 1)
        self.file = None if file is None else os.path.expanduser(file)
        self.weight, self.share = weight, share
        self.protected: dict[str, Tensor] = {}
        self._of_fit: dict[str, Tensor] | None = None
        self._restored: dict[str, Tensor] | None = None

    @property
    def state_key(self) -> str:
        """Tells several in one trainer apart."""
        return f"RegLoRA[{self.file}]"

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what cannot work, and read what is protected."""
        if stage != "fit":
            return
        refuse_manual_optimization(pl_module, "RegLoRA")
        if (kind := strategy_kind(trainer)) not in ("single", "ddp"):
            raise NotImplementedError(
                f"`RegLoRA` should find both factors of each layer whole. Found a strategy that shards them ({kind}). Use "
                "`strategy='ddp'`: an adapter is small."
            )
        self._restored = None
        if self.file is not None and Path(self.file).is_file():
            self.protected = load_file(self.file)

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the layers; what a checkpoint has brought goes first."""
        if self._restored is not None:
            self.protected, self._restored = self._restored, None
        self._of_fit = None
        _refuse_others(self.protected, products_of(pl_module))

    @override
    @torch.no_grad()
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Add the gradient of the penalty. Gradients are accumulated and reduced here."""
        products = {name: pair for name, pair in products_of(pl_module).items() if name in self.protected}
        if not products or not self.weight:
            return
        total = torch.zeros((), device=pl_module.device, dtype=torch.float32)
        factors = [factor for pair in products.values() for factor in pair if factor.requires_grad]
        # Fused optimizers unscale inside their step. Until then `p.grad` is scaled, and the penalty's gradient is not.
        with unscaled(GradientEngine(pl_module, trainer), optimizer, factors):
            for name, (second, first) in products.items():
                entries = self.protected[name].to(second.device)
                size, *gradients = mean_size_of_entries(second, first, entries)
                total = total + size.to(total.device) * self.weight / len(products)
                for factor, gradient in zip((second, first), gradients, strict=True):
                    if factor.requires_grad:
                        _add_(factor, gradient * (self.weight / len(products)))
        pl_module.log("reg_lora/penalty", total, batch_size=1)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Protect what this adapter has changed most, too; write it."""
        self._of_fit = self.protected
        self.protected = protected_entries(pl_module, self.share, before=self.protected)
        if self.file is not None and trainer.is_global_zero:
            Path(self.file).parent.mkdir(parents=True, exist_ok=True)
            with written_whole(Path(self.file)) as new:
                save_file({name: entries.cpu().contiguous() for name, entries in self.protected.items()}, new)

    @override
    def state_dict(self) -> dict[str, Any]:
        """What is protected: a resumed fit protects what it did, whatever has become of the file."""
        # Without what `on_train_end` adds: a fit that goes on after its end would push its own adapter to zero.
        protected = self.protected if self._of_fit is None else self._of_fit
        return {"protected": {name: entries.cpu() for name, entries in protected.items()}}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it up when training starts."""
        self._restored = state_dict["protected"]


def _add_(factor: Tensor, gradient: Tensor) -> None:
    if factor.grad is None:
        factor.grad = torch.zeros_like(factor)
    factor.grad.add_(gradient.to(factor.grad.dtype))


def _refuse_others(protected: Mapping[str, Tensor], products: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    if not products:
        raise ValueError("`RegLoRA` should find a plain LoRA adapter on linear layers. Found none. Use `LoRA(r=8)`.")
    for name, entries in protected.items():
        if name not in products:
            raise ValueError(
                f"Protected entries should be of layers with an adapter. Found `{name}`, which has none. Give the new "
                "adapter the layers that the earlier ones had, or another `file`."
            )
        second, first = products[name]
        most = torch.tensor([second.shape[0], first.shape[1]])
        if len(entries) and bool((entries.cpu().amax(0) >= most).any()):
            raise ValueError(
                f"Protected entries should be of weights of this network. Found some of `{name}` outside of "
                f"{most.tolist()}. Is the file of another model?"
            )
