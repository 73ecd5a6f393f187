"""The `k` of leaks among several answers, and the names of their metrics."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_unlearn.functional.settings import check_whole


def check_ks(k: Sequence[int]) -> tuple[int, ...]:
    """Refuse what are no different, positive whole numbers; in ascending order."""
    if isinstance(k, str) or not isinstance(k, Sequence) or not k or len(set(k)) != len(k):
        raise ValueError(
            f"`k` should be different whole numbers of answers, at least one, such as `(1, 16)`. Found `k = {k!r}`."
        )
    for each in k:
        check_whole("k", each)
    return tuple(sorted(k))
