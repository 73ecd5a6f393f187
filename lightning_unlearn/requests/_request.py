from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from os import PathLike
from typing import Any

from lightning_unlearn.data import FileRecords, InMemoryRecords, QuestionAnswer, Records
from lightning_unlearn.functional.settings import check_kind
from lightning_unlearn.requests._digest import digest_of

RETAIN = "retain"
"""By this name figures are of what must stay."""


@dataclass(frozen=True, eq=False)
class Request:
    """One request for deletion.

    Args:
        id: Its name in the ledger; not empty.
        records: The rows that must go.

    Example:
        >>> rows = InMemoryRecords([{"question": "Who employs Ada?", "answer": "The post office"}])
        >>> Request("2026-17", rows).digest[:8]
        'aedcf1f2'
    """

    id: str
    records: Records

    def __post_init__(self) -> None:
        check_kind("records", self.records, Records, example='FileRecords("request.jsonl")')
        if not isinstance(self.id, str) or not self.id.strip():
            raise ValueError(f"`id` should be the name of a request, not empty. Found `id = {self.id!r}`.")

    @property
    def digest(self) -> str:
        """SHA-256 of its rows: questions, answers, entities, what was said before, and images."""
        return digest_of([_said(row) for row in self.records.questions()])


def _said(row: QuestionAnswer) -> dict[str, Any]:
    image = {} if row.image is None else {"image": row.image.key}
    words = asdict(replace(row, image=None))
    return {**{key: value for key, value in words.items() if key not in ("source", "image")}, **image}


def read_requests(path: str | PathLike[str], *, field: str = "request", **columns: Any) -> list[Request]:
    """Read requests from a file: each row has the name of its request, and requests come in the order of their first rows.

    Args:
        path: As in :class:`FileRecords`, such as JSON Lines or CSV.
        field: With the name of the request.
        **columns: As in :class:`Records`: ``question``, ``answer``, ``entity``.

    Raises:
        ValueError: If there are no rows, or a row does not say of which request it is.

    Example:
        >>> [request.id for request in read_requests("bundled:people", field="entity")][:2]
        ['Maribel Okonvane', 'Tobias Quillfeather']
    """
    rows: dict[str, list[Any]] = {}
    for number, row in enumerate(FileRecords(path).read()):
        name = row.get(field) if isinstance(row, dict) else None
        if name is None or not str(name).strip():
            found = f"the fields {list(row)[:20]}" if isinstance(row, dict) else f"`{type(row).__name__}`"
            raise ValueError(
                f"Each row of `{path}` should say in `{field}` of which request it is. Found {found} in row {number}. Name "
                "another field with `field`."
            )
        rows.setdefault(str(name), []).append(row)
    if not rows:
        raise ValueError(f"`{path}` should hold at least one request. Found no rows.")
    return [Request(name, InMemoryRecords(of_request, **columns)) for name, of_request in rows.items()]


def check_requests(requests: Sequence[Request]) -> None:
    """Refuse what is no request, two of one name, and the name of what must stay."""
    for request in requests:
        check_kind("requests", request, Request, example='Request("2026-17", FileRecords("request.jsonl"))')
    names = [request.id for request in requests]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"Each request should have a name of its own. Found `{twice[0]}` more than once.")
    if RETAIN in names:
        raise ValueError(f"No request should have the name of what must stay. Found `{RETAIN}`. Give it another name.")
