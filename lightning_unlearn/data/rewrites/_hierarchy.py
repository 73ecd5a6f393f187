from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Literal, get_args

from typing_extensions import override

from lightning_unlearn.data.records import FileRecords, QuestionAnswer, Record, Records
from lightning_unlearn.data.relearning._chosen import ChosenRecords
from lightning_unlearn.functional.settings import check_kind

Side = Literal["forget", "siblings", "retain"]


class Hierarchy(ChosenRecords):
    """Rows below nodes of a hierarchy: a hospital, a patient of it, a study of his. What must go is whole nodes.

    A node is a path of values, ``"East/Ada"``, as deep as the level at which something must go; its rows are all that are
    below it. ``siblings`` are the rows of other nodes below the same parents, which are near and must stay; ``retain`` all
    rows that are not below a node that must go, siblings included. The entity of a row is its node at the level of what
    must go.

    A row that names its node by levels can be asked with ever more of them: :class:`ContextLadder`.

    Args:
        records: Rows with a field for each level.
        levels: These fields, the most general first.
        nodes: What must go: paths of one depth, with ``/`` between values.
        side: Which rows are given.

    Raises:
        ValueError: If a node has no row, or paths are of different depth.

    Example:
        >>> from lightning_unlearn.data import InMemoryRecords
        >>> places = [("East", "Ada"), ("East", "Bo"), ("West", "Cy")]
        >>> rows = InMemoryRecords([{"ward": w, "who": p, "question": f"What ails {p}?", "answer": "A cough"}
        ...                         for w, p in places])
        >>> {side: [row.entity for row in Hierarchy(rows, ["ward", "who"], ["East/Ada"], side).questions()]
        ...  for side in ("forget", "siblings", "retain")}
        {'forget': ['East/Ada'], 'siblings': ['East/Bo'], 'retain': ['East/Bo', 'West/Cy']}

    References:
        Wu et al., `MedForget <https://arxiv.org/abs/2512.09867>`_, 2025.
    """

    def __init__(
        self, records: FileRecords | Records, levels: Sequence[str], nodes: Collection[str], side: Side = "forget"
    ) -> None:
        check_kind("records", records, Records, example='FileRecords("patients.jsonl")')
        paths = {tuple(node.split("/")) for node in nodes} if not isinstance(nodes, str) else set()
        depths = {len(path) for path in paths}
        if isinstance(levels, str) or len(depths) != 1 or not depths <= set(range(1, len(levels) + 1)):
            raise ValueError(
                f"`nodes` should be a list of paths of one depth, at most that of `levels = {levels}`, such as 'East/Ada'. "
                f"Found `nodes = {nodes!r}`."
            )
        if side not in get_args(Side):
            raise ValueError(f"`side` should be one of {get_args(Side)}. Found `side = {side!r}`.")
        super().__init__(records)
        self.levels, self.side, self._paths, self._depth = tuple(levels), side, paths, depths.pop()

    @override
    def choose(self, records: list[Record]) -> list[Record]:
        below = [self._node(record) for record in records]
        if missing := self._paths - set(below):
            raise ValueError(f"`nodes` should have rows. Found none below {'/'.join(sorted(missing)[0])!r}.")
        return [record for record, node in zip(records, below, strict=True) if self._is_wanted(node)]

    def _is_wanted(self, node: tuple[str, ...]) -> bool:
        gone = node in self._paths
        if self.side == "siblings":
            return not gone and any(node[:-1] == path[:-1] for path in self._paths)
        return gone == (self.side == "forget")

    @override
    def parse(self, record: Record) -> QuestionAnswer:
        return replace(self.pool.parse(record), entity="/".join(self._node(record)))

    def _node(self, record: Record) -> tuple[str, ...]:
        return tuple(str(record[level]) for level in self.levels[: self._depth])
