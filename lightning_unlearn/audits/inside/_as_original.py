from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from lightning_unlearn.attacks import KnowsOriginal
from lightning_unlearn.attacks._perturbed import restored
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.runtime import Misfit, local, reshard


@contextmanager
def as_original(knows: KnowsOriginal, network: nn.Module) -> Iterator[None]:
    """Give ``network`` the weights of the original; afterwards it has its own again, bit for bit, also after an exception.

    What no training changes is taken as it is: under an attack on frozen weights the original is attacked there as well.
    """
    reshard(network)  # FSDP2 may still hold weights that it has gathered, which are other parameters
    with torch.inference_mode(False):
        moved = knows.moved(network)
    with restored(network, [each.tensor for each in moved], store="cpu"):
        with torch.inference_mode(False), torch.no_grad():
            for each in moved:
                # `.data`: a graph of the fit that has saved the tensor stays valid, since the value comes back.
                local(each.tensor).data.copy_(each.original)
        yield


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
