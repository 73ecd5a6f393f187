from __future__ import annotations

from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from lightning_unlearn.attacks import RunsAsOriginal
from lightning_unlearn.audits._base import Audit
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.runtime import Misfit


class AuditByOriginal(RunsAsOriginal, Audit):
    """An audit that runs the network with the weights of the original for a while.

    Args:
        original: Weights of the original, where no fit shows it: a Lightning checkpoint, a ``.safetensors`` file, or a
            Hugging Face folder.
    """

    def can_be_original(self, network: nn.Module) -> bool:
        """Whether the original can be had here; else a warning says why not. Collective: every rank must call it."""
        if self.has_own_frozen_weights(network):
            return True
        rank_zero_warn(
            f"`{type(self).__name__}` says nothing here: weights that no training changes are not the original's, since an "
            "attack has changed them or a control has others. Give `original`, the path of its weights."
        )
        return False


def refuse_flat(engine: GradientEngine, who: str) -> None:
    """Refuse strategies under which parameters have lost their shapes.

    Raises:
        Misfit: Under FSDP1 and DeepSpeed.
    """
    if engine.kind in ("fsdp1", "deepspeed"):
        raise Misfit(
            f"`{who}` should find weights that have their own shapes. Found the strategy `{engine.kind}`, which flattens "
            "them. Use DDP or `ModelParallelStrategy` (FSDP2), or leave it out of `audits`."
        )
