from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from typing_extensions import override

from lightning_unlearn.data.orders._order import RowSet
from lightning_unlearn.data.relearning._similarity import Similarity, TfIdf
from lightning_unlearn.functional.settings import check_whole


class Neighbourhood(ABC):
    """Which retain rows are near each forget row: the hard ones, which forgetting harms first.

    A new one is a subclass with :meth:`__call__`; YAML builds it by its ``class_path``.
    """

    @abstractmethod
    def __call__(self, forget: RowSet, retain: RowSet) -> list[list[int]]:
        """For each forget row, the numbers of its retain rows; never none."""


class SameEntity(Neighbourhood):
    """Retain rows about the entity of the forget row: other facts about the same person, which must stay.

    Example:
        >>> class Rows(list):
        ...     entities = ["Ada", "Bo", "Ada"]
        >>> SameEntity()(RowSet(Rows("abc"), 1), RowSet(Rows("def"), 1))
        [[0, 2], [1], [0, 2]]
    """

    @override
    def __call__(self, forget: RowSet, retain: RowSet) -> list[list[int]]:
        groups = retain.groups()
        if missing := sorted(set(forget.groups()) - set(groups)):
            raise ValueError(
                f"`SameEntity` should find retain rows about each entity that has forget rows. Found none about "
                f"{missing[0]!r}. Use `MostAlike()`, or `ClassGraph({{{missing[0]!r}: [...]}})`."
            )
        return [groups[entity] for entity in forget.entities or ()]


class ClassGraph(Neighbourhood):
    """Retain rows of entities that are said to be near: the classes beside one that must go.

    Args:
        edges: By the entity of a forget row, the entities of retain rows.

    Example:
        >>> class Rows(list):
        ...     def __init__(self, *entities):
        ...         super().__init__(entities)
        ...         self.entities = list(entities)
        >>> ClassGraph({"cat": ["dog"]})(RowSet(Rows("cat"), 1), RowSet(Rows("ship", "dog", "dog"), 1))
        [[1, 2]]

    References:
        Near classes suffer first: Malepathirana et al., *NAPA-VQ*, ICCV 2023, whose graph is learnt; this one is given.
    """

    def __init__(self, edges: Mapping[str, Sequence[str]]) -> None:
        if not edges or any(isinstance(names, str) or not names for names in edges.values()):
            raise ValueError(
                f"`edges` should be lists of entities by entity: {{'cat': ['dog']}}. Found `edges = {edges!r}`."
            )
        self.edges = {entity: tuple(names) for entity, names in edges.items()}

    @override
    def __call__(self, forget: RowSet, retain: RowSet) -> list[list[int]]:
        groups, own = retain.groups(), list(forget.groups())
        unknown = [entity for entity in own if entity not in self.edges]
        unknown += [name for entity in own for name in self.edges.get(entity, ()) if name not in groups]
        if unknown:
            raise ValueError(
                f"`edges` should lead from each entity that has forget rows to some that have retain rows. Found nothing "
                f"for {unknown[0]!r}."
            )
        near = {entity: [row for name in self.edges[entity] for row in groups[name]] for entity in own}
        return [near[entity] for entity in forget.entities or ()]


class MostAlike(Neighbourhood):
    """The retain rows whose text is most like that of the forget row.

    Args:
        similarity: How alike two texts are: any embedding, as a subclass of :class:`Similarity`. Defaults to
            :class:`TfIdf`.
        nearest: How many.

    Example:
        >>> class Rows(list):
        ...     @property
        ...     def texts(self):
        ...         return list(self)
        >>> near = MostAlike(nearest=1)(RowSet(Rows(["a heron"]), 1), RowSet(Rows(["one mill", "the heron"]), 1))
        >>> near
        [[1]]
    """

    def __init__(self, similarity: Similarity | None = None, nearest: int = 5) -> None:
        check_whole("nearest", nearest)
        self.similarity = TfIdf() if similarity is None else similarity
        self.nearest = nearest

    @override
    def __call__(self, forget: RowSet, retain: RowSet) -> list[list[int]]:
        texts, others = (_texts(side) for side in (forget, retain))
        alike = self.similarity(texts, others)
        nearest = alike.argsort(dim=1, descending=True, stable=True)[:, : self.nearest]
        return [[int(row) for row in rows] for rows in nearest.tolist()]


def _texts(rows: RowSet) -> list[str]:
    if (texts := rows.texts) is None:
        raise ValueError(
            "`MostAlike` should get data whose rows can be read: a data set with `texts`, such as that of "
            f"`QuestionAnswerData`. Found `{type(rows.dataset).__name__}`. Use `ClassGraph`."
        )
    return texts
