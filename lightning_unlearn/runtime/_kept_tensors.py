from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from lightning_unlearn.runtime._sharding import local


class KeptTensors:
    """Copies of tensors, to write their values back.

    Autograd does not notice: a graph that has saved one of the tensors stays valid.

    Args:
        tensors: The tensors. Of a ``DTensor`` the local shard is meant.

    Example:
        >>> mean = torch.zeros(2)
        >>> kept = KeptTensors([mean])
        >>> _ = mean.add_(1)
        >>> kept.put_back()
        >>> mean
        tensor([0., 0.])
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        # Validation may run under inference mode. A copy made there would be an inference tensor.
        with torch.inference_mode(False), torch.no_grad():
            self._kept = [(tensor, local(tensor).data.clone()) for tensor in tensors]

    def put_back(self) -> None:
        """Write the values back."""
        for mode in (False, True):
            # Tensors that were made in inference mode can be written to there only.
            pairs = [(t, value) for t, value in self._kept if t.is_inference() == mode]
            if pairs:
                with torch.inference_mode(mode), torch.no_grad():
                    _write_(pairs)


def _write_(pairs: list[tuple[Tensor, Tensor]]) -> None:
    # `.data` does not raise the version counter that autograd goes by.
    now = [(local(tensor).data, value) for tensor, value in pairs]
    reshaped = [i for i, (data, value) in enumerate(now) if data.shape != value.shape]
    for i in reshaped:
        pairs[i][0].data = now[i][1]  # resized in place, or given other data
    same = [pair for i, pair in enumerate(now) if i not in reshaped]
    if same:
        torch._foreach_copy_([data for data, _ in same], [value for _, value in same])
