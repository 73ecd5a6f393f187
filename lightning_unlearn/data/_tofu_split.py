from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

AUTHORS = 200
"""Fictional authors in TOFU, in order."""

QUESTIONS = 20
"""Rows about each."""

Published = Literal["forget01", "forget05", "forget10"]
_FORGOTTEN: dict[str, int] = {"forget01": 2, "forget05": 10, "forget10": 20}


@dataclass(frozen=True)
class TOFUSplit:
    """Which authors of TOFU must go, must stay, and are told to nobody, as half-open ranges of authors.

    There are 200, with 20 rows each. Perturbed answers, for the truth ratio, exist of the first 20 and of the last 20.

    Args:
        forget: Must go.
        retain: Must stay.
        holdout: Told to nobody; TOFU's own holdout is not among its public files. ``None`` for none.

    Raises:
        ValueError: If a range is empty, leaves the 200 authors, or shares one with another.

    Example:
        >>> TOFUSplit(forget=(198, 200), retain=(0, 18), holdout=(180, 182)).rows("forget")
        (3960, 4000)
        >>> TOFUSplit.published("forget10")
        TOFUSplit(forget=(180, 200), retain=(0, 180), holdout=None)
    """

    forget: tuple[int, int] = (180, 200)
    retain: tuple[int, int] = (0, 180)
    holdout: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        parts = self._parts()
        for name, (first, last) in parts.items():
            if not 0 <= first < last <= AUTHORS:
                raise ValueError(
                    f"`{name}` should be a range within the {AUTHORS} authors of TOFU, such as (198, 200). Found "
                    f"`{name} = ({first}, {last})`."
                )
        for (one, ours), (other, theirs) in combinations(parts.items(), 2):
            if max(ours[0], theirs[0]) < min(ours[1], theirs[1]):
                raise ValueError(
                    f"`{one}` and `{other}` should share no author. Found `{one} = {ours}` and `{other} = {theirs}`."
                )

    @classmethod
    def published(cls, name: Published) -> TOFUSplit:
        """One of the three splits of the paper: 1, 5 or 10 percent must go, and all others stay."""
        if name not in _FORGOTTEN:
            raise ValueError(
                f"`split` should be one of {', '.join(_FORGOTTEN)}, or a `TOFUSplit`. Found `split = {name!r}`."
            )
        start = AUTHORS - _FORGOTTEN[name]
        return cls(forget=(start, AUTHORS), retain=(0, start))

    @classmethod
    def reduced(cls, authors: int = 20, forget: int = 2, holdout: int = 2, seed: int | None = None) -> TOFUSplit:
        """A smaller one: the last ``forget`` authors must go, the first others stay, and perturbed answers exist of all.

        Args:
            authors: Taught in all, 2 to 40.
            forget: Of these, must go.
            holdout: Further ones, told to nobody.
            seed: Draws where these ranges begin, among the first and the last twenty authors.

        Example:
            >>> TOFUSplit.reduced(20, 2, 2)
            TOFUSplit(forget=(198, 200), retain=(0, 18), holdout=(180, 182))
            >>> TOFUSplit.reduced(6, 2, 2, seed=1)
            TOFUSplit(forget=(186, 188), retain=(2, 6), holdout=(184, 186))
        """
        start = AUTHORS - 20
        if seed is not None:
            draw = random.Random(seed)
            # From a list of one at least: what does not fit is refused as any other range.
            first = start + draw.randrange(max(20 - forget - holdout, 0) + 1)
            kept = draw.randrange(max(20 - authors + forget, 0) + 1)
            middle = first + holdout
            return cls((middle, middle + forget), (kept, kept + authors - forget), (first, middle) if holdout else None)
        return cls((AUTHORS - forget, AUTHORS), (0, authors - forget), (start, start + holdout) if holdout else None)

    def rows(self, part: str) -> tuple[int, int]:
        """The rows of ``full.jsonl`` with the authors of a part."""
        first, last = self._parts()[part]
        return QUESTIONS * first, QUESTIONS * last

    def _parts(self) -> dict[str, tuple[int, int]]:
        parts = {"forget": self.forget, "retain": self.retain, "holdout": self.holdout}
        # As given by YAML: a list.
        return {name: (part[0], part[1]) for name, part in parts.items() if part is not None}
