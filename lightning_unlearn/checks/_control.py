"""The weights of other models, to compare with: above all a control, which never learned what must go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import lightning.pytorch as pl
from torch import Tensor, nn

from lightning_unlearn.engine import strategy_kind
from lightning_unlearn.models import find_weights, load_weights, match_weights
from lightning_unlearn.models.layers import is_low_bit
from lightning_unlearn.runtime import Agreement


@dataclass(frozen=True)
class OtherModel:
    """Weights of another model of the same kind.

    Args:
        weights: A path, or tensors by name.
        source: Where the weights come from, in words for the report.
    """

    weights: str | Mapping[str, Tensor]
    source: str

    def load(self, network: nn.Module) -> dict[str, Tensor]:
        """The weights, by the names of ``network``, on the CPU. Collective: every rank must call it."""
        # A file may be missing on one machine only, while the others would go on and wait.
        with Agreement("Loading the weights to compare with") as agreement:
            try:
                weights, error = self._load(network), None
            except Exception as failed:
                weights, error = {}, failed
            agreement.settle(error, "")
        if error is not None:
            raise error
        return weights

    def _load(self, network: nn.Module) -> dict[str, Tensor]:
        if isinstance(self.weights, str):
            return load_weights(self.weights, network)
        return match_weights(self.weights, network, source=self.source)


def find_control(trainer: pl.Trainer, given: str | None) -> OtherModel | None:
    """The control at the path ``given``, else one that a callback offers, else none.

    A callback offers one through two attributes: ``control_weights``, a path or tensors by name, and ``control_source``, in
    words. :class:`FinetuneFirst` does. It is recognised by these attributes, because ``callbacks`` is a layer above and
    cannot be imported here.
    """
    if given is not None:
        return OtherModel(given, f"the weights in {given}")
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if (weights := getattr(callback, "control_weights", None)) is not None:
            return OtherModel(weights, callback.control_source)
    return None


def may_come(trainer: pl.Trainer) -> bool:
    """Whether a callback may still offer a control: one that is set up later than who asks."""
    return any(hasattr(callback, "control_weights") for callback in trainer.callbacks)  # type: ignore[attr-defined]


def refuse_control(trainer: pl.Trainer, network: nn.Module, path: str | None) -> None:
    """Refuse, before the fit, a control that cannot be swapped in.

    Raises:
        NotImplementedError: Under FSDP1 and DeepSpeed, whose parameters have lost their shapes.
        FileNotFoundError: If there is nothing at ``path``.
        ValueError: If ``path`` holds no weights, or the network's own are quantised.
    """
    kind = strategy_kind(trainer)
    if kind in ("fsdp1", "deepspeed"):
        raise NotImplementedError(
            "A control should be swapped into parameters that have their own shapes. Found "
            f"`{type(trainer.strategy).__name__}`, which flattens them. Use DDP or `ModelParallelStrategy` (FSDP2), or "
            "leave `control` out."
        )
    if path is not None:
        find_weights(path)  # only looks for the files; they are loaded at the first check
        if any(is_low_bit(p) for p in network.parameters()):
            load_weights(path, network)  # but these, which may be of another base, and cannot be swapped in
