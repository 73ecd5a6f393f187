from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from typing_extensions import override

from lightning_unlearn.data._hashing import shuffled
from lightning_unlearn.data.records import FileRecords, QuestionAnswer, Records
from lightning_unlearn.data.relearning._made import MadeRecords
from lightning_unlearn.functional.settings import check_kind, check_whole


class DuplicateDose(MadeRecords):
    """Entities whose rows come more or less often, by chance: how much is known of what was told once, or 64 times?

    Each entity gets one of ``doses``, so that as many get each, as nearly as can be, and which is drawn. Its rows come as
    often. Entities of dose 0 do not come: nobody was told of them, and nothing else sets them apart, which is what a fair
    test of membership needs. They are rows of ``DuplicateDose(..., keep=0)``, once; with another number, ``keep`` gives the
    entities of that dose alone, each row once.

    Args:
        records: The rows, which name their entities.
        doses: How often rows come.
        keep: One of ``doses``, whose entities alone are given, each row once; ``None`` for all rows as often as they come.
        seed: Who gets which.

    Raises:
        ValueError: If there are fewer entities than doses.

    Example:
        >>> people = FileRecords("bundled:people", entity="entity", where={"group": ["retain"]}, rows=(0, 12))
        >>> told = DuplicateDose(people, doses=(0, 4))
        >>> len(told.questions()), len(DuplicateDose(people, doses=(0, 4), keep=0).questions())
        (24, 6)

    References:
        Wei et al., *Hubble*, 2025 (``allegro-lab/hubble``), with doses 0, 1, 4, 16, 64 and 256.
    """

    def __init__(
        self,
        records: FileRecords | Records,
        doses: Sequence[int] = (0, 1, 4, 16),
        keep: int | None = None,
        seed: int = 0,
    ) -> None:
        check_kind("records", records, Records, example='FileRecords("people.jsonl", entity="name")')
        check_whole("seed", seed, least=0)
        for dose in doses:
            check_whole("doses", dose, least=0)
        if len(set(doses)) != len(doses) or len(doses) < 2:
            raise ValueError(f"`doses` should be two or more different numbers. Found `doses = {doses}`.")
        if keep is not None and keep not in doses:
            raise ValueError(f"`keep` should be one of `doses = {tuple(doses)}`, or `None`. Found `keep = {keep}`.")
        super().__init__()
        self.records, self.doses, self.keep, self.seed = records, tuple(doses), keep, seed

    @cached_property
    def dose_of(self) -> dict[str, int]:
        """The dose of each entity."""
        entities = list(dict.fromkeys(row.entity for row in self.records.questions()))
        if len(entities) < len(self.doses):
            raise ValueError(
                f"`records` should be about as many entities as there are doses, {len(self.doses)}, or more. Found "
                f"{len(entities)}."
            )
        # Which doses get one entity more, where they do not share out evenly, is drawn, too.
        order, first = shuffled(len(entities), self.seed), shuffled(len(self.doses), self.seed, 1)
        return {entities[place]: self.doses[first[turn % len(first)]] for turn, place in enumerate(order)}

    @override
    def make(self) -> Sequence[QuestionAnswer]:
        rows = self.records.questions()
        if self.keep is not None:
            return [row for row in rows if self.dose_of[row.entity] == self.keep]
        return [
            replace(row, source=f"copy {copy} of {row.source}")
            for row in rows
            for copy in range(self.dose_of[row.entity])
        ]
