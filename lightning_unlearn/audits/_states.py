from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.prediction import Prediction
from lightning_unlearn.readouts import Readout
from lightning_unlearn.runtime import eval_without_grad


def read_states(
    network: nn.Module, *, readout: Readout, batches: Iterable[Any], engine: GradientEngine
) -> list[Prediction]:
    """Hidden states of each batch, in evaluation mode and without a graph: predictions with ``features``.

    Every process reads all ``batches``, so that all get the same. Collective under strategies that shard.

    Args:
        network: The live network.
        readout: Gives hidden states, such as :class:`HiddenStateReadout`.
        batches: On any device.
        engine: Calls the network as the strategy needs it called.

    Raises:
        ValueError: If the readout gives no hidden states.

    Example:
        >>> from lightning_unlearn.models import TinyCausalLM
        >>> from lightning_unlearn.readouts import HiddenStateReadout
        >>> network = TinyCausalLM(hidden_size=32)
        >>> batch = {"input_ids": torch.tensor([[5, 6, 7]]), "labels": torch.tensor([[-100, 6, 7]])}
        >>> readout = HiddenStateReadout("layers.1")
        >>> (read,) = read_states(network, readout=readout, batches=[batch], engine=GradientEngine(network))
        >>> read.features.shape
        torch.Size([2, 32])
    """
    found = []
    with eval_without_grad(network):
        for batch in batches:
            read = engine.forward(lambda on_device: readout(network, on_device), engine.to_device(batch))
            if not isinstance(read, Prediction) or read.features is None:
                raise ValueError(
                    f"The readout should give hidden states. Found `{readout!r}`. Use `HiddenStateReadout(layer=...)`."
                )
            found.append(read)
    return found


def stacked_states(read: Iterable[Prediction]) -> Tensor:
    """All hidden states in one tensor ``[N, D]``, in float32 at least."""
    states = torch.cat([prediction.features for prediction in read if prediction.features is not None])
    return states.to(torch.promote_types(states.dtype, torch.float32))
