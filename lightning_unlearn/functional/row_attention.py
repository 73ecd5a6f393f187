"""Attention over rows that are packed into one sequence, without the blocks that their mask hides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from lightning_unlearn.functional.packing import Packed


class RowMask(Tensor):
    """The mask of a packed sequence, ``[1, 1, T, T]`` bool, which knows its rows.

    It is ``Packed.visible``, and anything that is done with it gives what it gives for that. Only torch's
    ``scaled_dot_product_attention`` is computed in another way (:func:`attend_by_rows`): row by row, the same to rounding.
    For ``B`` rows that takes about ``1 / B`` of the products. It goes with the mask wherever a model takes it, also into
    layers that are run again by activation checkpointing.

    Example:
        >>> from lightning_unlearn.functional.packing import pack
        >>> tokens = torch.tensor([[1, 2, 3, 4], [1, 2, 5, 0]])
        >>> packed = pack(tokens, tokens > 0, torch.tensor([[0, 0, 1, 0], [0, 1, 0, 0]]).bool())
        >>> mask, q = RowMask.of(packed), torch.randn(1, 1, 6, 4)
        >>> by_rows = F.scaled_dot_product_attention(q, q, q, attn_mask=mask)
        >>> torch.allclose(by_rows, F.scaled_dot_product_attention(q, q, q, attn_mask=packed.visible), atol=1e-6)
        True
    """

    prefix: int
    sizes: list[int]

    @classmethod
    def of(cls, packed: Packed) -> Self:
        """The mask of a packed batch."""
        mask = packed.visible.as_subclass(cls)
        mask.prefix, mask.sizes = packed.prefix, [n for n in packed.row.bincount().tolist() if n]
        return mask

    @classmethod
    @override
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        mask = kwargs.get("attn_mask")
        if func is F.scaled_dot_product_attention and isinstance(mask, RowMask) and mask._fits(*args, **kwargs):
            query, key, value = args
            return attend_by_rows(query, key, value, mask.prefix, mask.sizes, scale=kwargs.get("scale"))
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

    def _fits(self, *tensors: Tensor, dropout_p: float = 0.0, is_causal: bool = False, **settings: Any) -> bool:
        known = set(settings) <= {"attn_mask", "scale", "enable_gqa"} and not settings.get("enable_gqa")
        length = sum(self.sizes)
        shaped = len(tensors) == 3 and all(t.dim() == 4 and t.shape[0] == 1 and t.shape[2] == length for t in tensors)
        return known and shaped and not dropout_p and not is_causal  # dropout draws by the shape of the whole


def attend_by_rows(
    query: Tensor, key: Tensor, value: Tensor, prefix: int, sizes: Sequence[int], *, scale: float | None = None
) -> Tensor:
    """Causal attention of each row to the shared prefix and to itself.

    Args:
        query: ``[1, H, T, D]``.
        key: ``[1, H, T, D]``.
        value: ``[1, H, T, D]``.
        prefix: Tokens at the beginning that all rows share.
        sizes: Tokens of each row, in order, ``T`` together; the prefix is counted in the first row.
        scale: On the scores; ``None`` for torch's own.

    Returns:
        ``[1, H, T, D]``.
    """
    # `split`, whose backward joins the parts once; slices would fill a whole tensor with zeros for each row.
    queries, keys, values = (t.split(list(sizes), dim=2) for t in (query, key, value))
    attend = F.scaled_dot_product_attention
    rows = [attend(queries[0], keys[0], values[0], is_causal=True, scale=scale)]
    shared = keys[0][:, :, :prefix], values[0][:, :, :prefix]
    for q, k, v in zip(queries[1:], keys[1:], values[1:], strict=True):
        if not prefix:
            rows.append(attend(q, k, v, is_causal=True, scale=scale))
            continue
        seen = torch.ones(q.shape[2], prefix + q.shape[2], dtype=torch.bool, device=q.device).tril(prefix)
        k, v = torch.cat([shared[0], k], dim=2), torch.cat([shared[1], v], dim=2)
        rows.append(attend(q, k, v, attn_mask=seen, scale=scale))
    return torch.cat(rows, dim=2)
