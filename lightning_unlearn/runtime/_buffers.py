from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from lightning_unlearn.runtime._kept_tensors import KeptTensors


def remember_buffers(module: nn.Module, beside: Sequence[Tensor] = ()) -> Callable[[], None]:
    """Remember the buffers of ``module``, which they are and their values, and the values of tensors ``beside`` them.

    Returns:
        What puts all of them back.

    Example:
        >>> norm = nn.BatchNorm1d(2)
        >>> put_back = remember_buffers(norm)
        >>> norm.running_mean = norm.running_mean + 1
        >>> put_back()
        >>> norm.running_mean
        tensor([0., 0.])
    """
    places = [(m._buffers, dict(m._buffers)) for m in module.modules() if m._buffers]
    buffers = {id(b): b for _, then in places for b in then.values() if b is not None}
    values = KeptTensors([*buffers.values(), *beside])

    def put_back() -> None:
        for now, then in places:
            if any(now.get(name) is not buffer for name, buffer in then.items()) or len(now) != len(then):
                now.clear()
                now.update(then)
        values.put_back()

    return put_back
