from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.engine import GradientEngine, sharded_like, with_local
from lightning_unlearn.models import read_weights, without_prefix
from lightning_unlearn.readouts import Readout
from lightning_unlearn.runtime import local
from lightning_unlearn.selectors._base import Selector, selectable
from lightning_unlearn.selectors._losses import By, check_by, means


class TopUpdate(Selector):
    r"""How far a weight has moved since the knowledge was learnt.

    .. math:: s = |W - W_\text{base}|

    It needs no data, but the weights from before: a safetensors file, a Hugging Face folder, or a Lightning checkpoint of
    the network without an adapter. ``TopShare(0.02)`` is the share of SEFE, where the largest changes by earlier tasks are
    protected. Parameters that the file does not hold have no score. Computed in float64, one tensor at a time.

    Args:
        base: The weights before.
        by: Score each element, or whole tensors by their mean.

    Raises:
        ValueError: When it scores, if ``base`` holds none of the parameters that can be trained, as those of an adapter,
            or one of another shape.

    Example:
        >>> import tempfile
        >>> from safetensors.torch import save_file
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> _ = layer.weight.data.copy_(torch.tensor([[1.0, -3.0]]))
        >>> before = tempfile.mkdtemp() + "/before.safetensors"
        >>> save_file({"weight": torch.tensor([[1.0, 1.0]])}, before)
        >>> TopUpdate(base=before).scores(layer)
        {'weight': tensor([[0., 4.]])}

    References:
        The choice of entries of RegLoRA in `SEFE <https://arxiv.org/abs/2505.02486>`_, Chen et al., 2025, and its code;
        there of the product of LoRA factors.
    """

    def __init__(self, base: str, by: By = "element") -> None:
        check_by(by)
        self.base, self.by = base, by

    @override
    def scores(
        self,
        network: nn.Module,
        *,
        forget: Sequence[Any] = (),
        retain: Sequence[Any] = (),
        readout: Readout | None = None,
        engine: GradientEngine | None = None,
    ) -> dict[str, Tensor]:
        params = selectable(network)
        weights = without_prefix(read_weights(self.base), network)
        known = [name for name in params if name in weights]
        if not known:
            raise ValueError(
                f"`{self.base}` should hold weights that can be trained. Found {len(weights)} tensors, none of whose names "
                f"such a parameter has, as `{next(iter(params), '')}`. Is there an adapter around the network? Score the "
                "network without it."
            )
        for name in known:
            if weights[name].shape != params[name].shape:
                raise ValueError(
                    f"`{self.base}` should hold weights of the network's shapes. Found `{name}` of "
                    f"{tuple(weights[name].shape)}, not {tuple(params[name].shape)}. Is it of another model?"
                )
        found = {name: _change(params[name], weights[name]) for name in known}
        return means(found) if self.by == "tensor" else found

    def __repr__(self) -> str:
        return f"TopUpdate(by={self.by!r})"


@torch.no_grad()
def _change(param: Tensor, before: Tensor) -> Tensor:
    """Only this process's shard of each: in float64, since it is a small difference of large numbers."""
    part = local(sharded_like(before.to(param.device), param))
    return with_local(param, (local(param.detach()).double() - part.double()).abs().float())
