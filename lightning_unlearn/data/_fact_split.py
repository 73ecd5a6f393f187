from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.utils.data import SubsetRandomSampler

from lightning_unlearn.data._loaders import batch_size_of, in_order, reordered, rows_of
from lightning_unlearn.data._probe import Probe
from lightning_unlearn.data._question_answer_dataset import questions_in
from lightning_unlearn.data.records import QuestionAnswer
from lightning_unlearn.functional.settings import check_between, check_whole


@dataclass(frozen=True)
class FactSplit:
    """Which facts an attacker has; he is judged by the others, which his data do not teach.

    What comes back of those was still there. Facts of one entity may tell of one another, so entities are kept whole, unless
    ``by`` says otherwise.

    Args:
        share: Of the entities, or facts, that the attacker has. At least one is his, and one is judged.
        by: ``"entity"``: the data set names entities, and those of the attacker's data are the same. ``"fact"``: each
            example by itself; the attacker's data then are the forget data, or as many rows about the same facts in the
            same order, such as paraphrases.
        seed: Which ones.

    Example:
        >>> split = FactSplit(share=0.5)
        >>> split.judged(["Ada", "Ada", "Bo", "Bo", "Cy", "Cy", "Di", "Di"])
        ['Cy', 'Di']
    """

    share: float = 0.5
    by: Literal["entity", "fact"] = "entity"
    seed: int = 0

    def __post_init__(self) -> None:
        check_between("share", self.share, 0, 1)
        check_whole("seed", self.seed, least=0)
        if self.by not in ("entity", "fact"):
            raise ValueError(f'`by` should be "entity" or "fact". Found `by = {self.by!r}`.')

    def names(self, entities: Sequence[str], size: int) -> Sequence[str]:
        """The name of what each of ``size`` examples is about.

        Raises:
            ValueError: If entities are needed, and not known.
        """
        if self.by == "fact":
            return [str(number) for number in range(size)]
        if len(entities) != size:
            raise ValueError(
                f"`FactSplit` should find the entity of each of {size} examples. Found {len(entities)} entities. Name them "
                '(`FileRecords(entity=...)`, or a data set with `entities`), or split by each example: `by="fact"`.'
            )
        return entities

    def judged(self, names: Collection[str]) -> list[str]:
        """Those of ``names`` that the attacker does not have, each once.

        Raises:
            ValueError: If there are not two, so that one part would be empty.
        """
        distinct = sorted(set(names))
        if len(distinct) < 2:
            raise ValueError(
                f"`FactSplit(by={self.by!r})` should find two or more to share out. Found {len(distinct)}. Give more forget "
                'data, or split by each example: `by="fact"`.'
            )
        order = torch.randperm(len(distinct), generator=torch.Generator().manual_seed(self.seed)).tolist()
        known = min(max(round(self.share * len(distinct)), 1), len(distinct) - 1)
        return sorted(distinct[place] for place in order[known:])

    def judged_examples(self, probe: Probe) -> frozenset[int]:
        """Numbers of the examples of ``probe`` that are judged."""
        names = self.names(probe.entities, probe.size)
        judged = set(self.judged(names))
        return frozenset(number for number, name in enumerate(names) if name in judged)

    def known(self, forget: Probe, probe: Probe) -> set[str]:
        """The entities that the attacker has of ``forget``, as far as ``probe`` means the same ones by these names."""
        if self.by == "fact":
            return set()
        return set(forget.entities) - set(self.judged(forget.entities)) - numbers_of_others(forget.rows, probe.rows)

    def without_judged(self, loader: Iterable[Any], probe: Probe) -> Iterable[Any]:
        """The attacker's batches: of ``loader`` in order, without what ``probe`` is judged by.

        Raises:
            ValueError: If it is not known which rows these are, or if none are left.
        """
        ordered: Any = in_order(loader)
        if rows_of(ordered) is None:
            raise ValueError(
                "`FactSplit` should find the attacker's data in a `DataLoader` whose rows are known. Found "
                f"`{type(loader).__name__}`. Give `RecoveryCheck(attack_data=...)` a loader of a data set with a length."
            )
        size = len(ordered.dataset)
        if self.by == "fact" and size != probe.size:
            raise ValueError(
                f'`FactSplit(by="fact")` should find as many rows in the attacker\'s data as in the forget probe, about the '
                f'same facts. Found {size} and {probe.size}. Split by entity: `by="entity"`.'
            )
        judged = set(self.judged(self.names(probe.entities, probe.size)))
        names = self.names(getattr(ordered.dataset, "entities", []), size)
        words = questions_in(ordered.dataset)
        if self.by == "entity" and numbers_of_others(probe.rows, words and words[0]) & set(names):
            raise ValueError(
                "`FactSplit` should find the entities of the forget probe in the attacker's data. Found that both name them "
                "by numbers of rows, and of other rows: name them (`FileRecords(entity=...)`), or, if the rows are about "
                'the same facts in the same order, split by each example: `by="fact"`.'
            )
        rows = [row for row, name in enumerate(names) if name not in judged]
        if not rows:
            raise ValueError(
                "`FactSplit` should leave the attacker something to train on. Found that all his rows are about what is "
                "judged. Give a larger `share`, or other data."
            )
        chosen = reordered(ordered, batch_size=batch_size_of(ordered), sampler=SubsetRandomSampler(rows))
        return in_order(chosen)


def numbers_of_others(rows: Sequence[QuestionAnswer] | None, others: Sequence[QuestionAnswer] | None) -> set[str]:
    """Entities of ``rows`` that are numbers of rows, and in ``others`` those of other rows, or not known to be of the same.

    Example:
        >>> ada, bo = (QuestionAnswer("Who?", name, entity="0", source=f"row 0 of `{name}`") for name in ("Ada", "Bo"))
        >>> numbers_of_others([ada], [ada]), numbers_of_others([ada], [bo])
        (set(), {'0'})
    """
    own = {row.entity: (row.source, row.answer) for row in rows or ()}
    if rows is None or len(own) < len(rows) or not all(name.isdecimal() for name in own):
        return set()
    if others is None:
        return set(own)
    return {row.entity for row in others if own.get(row.entity, (row.source, row.answer)) != (row.source, row.answer)}
