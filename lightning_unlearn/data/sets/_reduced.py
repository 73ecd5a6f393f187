from __future__ import annotations

from dataclasses import dataclass

from lightning_unlearn.data.records import Records
from lightning_unlearn.data.sets._some_entities import SomeEntities
from lightning_unlearn.functional.settings import check_whole


@dataclass(frozen=True)
class Reduced:
    """A smaller version of a set: so many of its entities, drawn with a seed.

    Args:
        forget: Entities that must go.
        retain: Entities that must stay.
        seed: Which ones. With one seed, a smaller version is a part of a larger one.

    Example:
        >>> Reduced(forget=2, retain=20).seed
        0
    """

    forget: int
    retain: int
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole("forget", self.forget)
        check_whole("retain", self.retain)
        check_whole("seed", self.seed, least=0)


def some(records: Records, reduced: Reduced | None, part: str) -> Records:
    """The rows of a part of a set, or of the smaller version."""
    if reduced is None:
        return records
    return SomeEntities(records, reduced.forget if part == "forget" else reduced.retain, seed=reduced.seed)
