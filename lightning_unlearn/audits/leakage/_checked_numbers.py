from __future__ import annotations

from collections.abc import Sequence

from lightning_unlearn.functional.settings import check_whole


def checked_numbers(name: str, numbers: Sequence[int]) -> tuple[int, ...]:
    """``numbers`` in ascending order; refused unless they are different, positive whole numbers, at least one.

    Example:
        >>> checked_numbers("k", [16, 1])
        (1, 16)
    """
    given: object = numbers
    listed = isinstance(given, Sequence) and not isinstance(given, str)
    if not listed or not numbers or len({*numbers}) != len(numbers):
        raise ValueError(
            f"`{name}` should be different whole numbers, at least one, such as `(1, 16)`. Found `{name} = {numbers!r}`."
        )
    for each in numbers:
        check_whole(name, each)
    return tuple(sorted(numbers))
