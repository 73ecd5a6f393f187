from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from lightning_unlearn.runtime._sharding import local


class KeptTensors:
    """Copies of tensors, to write their values back.

    Autograd does not notice: a graph that has saved one of the tensors stays valid.

    Args:
        tensors: The tensors. Of a ``DTensor`` the local shard is meant.
        on_cpu: Keep the copies in main memory, and not on the device of each tensor: slower, but smaller there.

    Example:
        >>> mean = torch.zeros(2)
        >>> kept = KeptTensors([mean])
        >>> _ = mean.add_(1)
        >>> kept.put_back()
        >>> mean
        tensor([0., 0.])
    """

    def __init__(self, tensors: Iterable[Tensor], *, on_cpu: bool = False) -> None:
        # Validation may run under inference mode. A copy made there would be an inference tensor.
        with torch.inference_mode(False), torch.no_grad():
            held = [(tensor, local(tensor).data) for tensor in tensors]
            copies = _in_main_memory([v for _, v in held]) if on_cpu else [v.clone() for _, v in held]
            self._kept = [(tensor, copy) for (tensor, _), copy in zip(held, copies, strict=True)]

    def pairs(self) -> list[tuple[Tensor, Tensor]]:
        """Each tensor, and its kept value."""
        return list(self._kept)

    def put_back(self) -> None:
        """Write the values back."""
        # Tensors that were made in inference mode can be written to there only.
        in_inference_mode = [pair for pair in self._kept if pair[0].is_inference()]
        others = self._kept if not in_inference_mode else [p for p in self._kept if not p[0].is_inference()]
        for pairs, mode in ((others, False), (in_inference_mode, True)):
            if pairs:
                with torch.inference_mode(mode), torch.no_grad():
                    _write_(pairs)


def _in_main_memory(values: Sequence[Tensor]) -> list[Tensor]:
    """Copies in one block for each dtype.

    Many small ones would fill the gaps that passes leave in the heap, and the next pass would need as much again: measured
    in ``benchmarks/attack_cost.py``, up to another copy. One block is given back to the system as a whole.
    """
    sizes: dict[torch.dtype, int] = {}
    for value in values:
        sizes[value.dtype] = sizes.get(value.dtype, 0) + value.numel()
    left = {dtype: torch.empty(size, dtype=dtype, device="cpu") for dtype, size in sizes.items()}
    copies = []
    for value in values:
        place, left[value.dtype] = left[value.dtype].tensor_split([value.numel()])
        copies.append(place.view(value.shape).copy_(value))
    return copies


def _write_(pairs: list[tuple[Tensor, Tensor]]) -> None:
    now, values = [], []
    for tensor, value in pairs:
        # `.data` does not raise the version counter that autograd goes by.
        data = local(tensor).data
        if data.shape != value.shape:
            tensor.data = data = value.to(data.device, copy=True)  # it was resized in place, or given other data
        data, value = without_repeats(data, value)
        now.append(data)
        values.append(value)
    torch._foreach_copy_(now, values)  # one operation for all: on a device, their number is what costs


def without_repeats(data: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Both once along axes that were made by ``expand``: torch refuses to write to one place several times."""
    if data.layout is torch.strided and 0 in data.stride():
        for axis in [axis for axis, stride in enumerate(data.stride()) if stride == 0 and data.shape[axis] > 1]:
            data, value = data.narrow(axis, 0, 1), value.narrow(axis, 0, 1)
    return data, value
