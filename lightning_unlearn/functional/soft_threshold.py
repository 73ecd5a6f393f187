"""Shrinking groups of numbers towards zero, until they are."""

from __future__ import annotations

import torch
from torch import Tensor


def group_factors(lengths: Tensor, threshold: float) -> Tensor:
    r"""By what each group is multiplied in the proximal step of the group lasso.

    .. math:: \mathrm{prox}(v) = \arg\min_x \tfrac{1}{2} \|x - v\|^2 + t \|x\| = \max(0, 1 - t / \|v\|) \, v

    Args:
        lengths: Of the groups, ``[G]``.
        threshold: :math:`t`, not negative.

    Returns:
        ``[G]`` in [0, 1]; 0 where a group is not longer than the threshold, and for a group of zeros: no 0 / 0.

    Example:
        >>> group_factors(torch.tensor([4.0, 1.0, 0.0]), 2.0)
        tensor([0.5000, 0.0000, 0.0000])

    References:
        Yuan and Lin, `Model selection and estimation in regression with grouped variables
        <https://doi.org/10.1111/j.1467-9868.2005.00532.x>`_, 2006.
    """
    tiny = torch.finfo(lengths.dtype).tiny
    return (1 - threshold / lengths.clamp_min(tiny)).clamp_min(0) if threshold else torch.ones_like(lengths)
