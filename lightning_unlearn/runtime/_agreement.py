"""Whether something ended in the same way on every rank, decided without a collective."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from itertools import count
from types import TracebackType
from typing import Any, NamedTuple, NoReturn, Self

from torch import distributed
from torch.distributed import DistError

from lightning_unlearn.runtime._termination import asked_to_end

GRACE = 4.0
"""Seconds that a rank that failed waits for the others to fail as well."""
_HEARD = 1.0  # seconds until every rank that listens has heard a verdict
_PULSE = 0.01
_NUMBERS = count()
_left: list[str] = []
"""Keys of agreements that this rank has left. They can go as soon as every rank has come to the end of a later one."""


class Ended(NamedTuple):
    """How something failed: the name of the error's class, and its own words."""

    error: str
    message: str

    def __str__(self) -> str:
        return f"{self.error}: {self.message}" if self.message else self.error


class Agreement:
    """A piece of work that fails on every rank, or on none. A context manager around it.

    A rank that fails alone goes on to other collectives than its peers, which then wait for it for half an hour. So each
    rank says in the store of the process group how its work ended. If all of them failed at the same place, they may go on
    together. Otherwise each raises an error that names the culprit, within seconds, and gives the process group up. A peer
    that waits in a collective of gloo meanwhile is woken when the culprit's process ends.

    Every rank must enter it, in the same order, and call :meth:`settle` at the end. An exception that leaves the block ends
    it for the other ranks, too.

    Args:
        who: What is done, for errors.

    Attributes:
        asked_to_end: Once settled, whether SIGTERM has come to any rank: the same on all of them.

    Example:
        >>> with Agreement("The attack") as agreement:
        ...     agreement.settle(ValueError("no data"), "")
        Ended(error='ValueError', message='no data')
    """

    def __init__(self, who: str) -> None:
        self.who = who
        self.asked_to_end = False
        self._key = f"lightning_unlearn/agreement/{next(_NUMBERS)}"
        several = distributed.is_available() and distributed.is_initialized()
        self._ranks = distributed.get_world_size() if several else 1
        self._heard = ""
        self._written: list[str] = []
        self._over = threading.Event()

    def __enter__(self) -> Self:
        if self._ranks > 1:
            self._store: Any = distributed.distributed_c10d._get_default_store()  # torch has no public name for it
            self._rank = distributed.get_rank()
            self._listener = threading.Thread(target=self._listen, daemon=True)
            self._listener.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        if kind is not None and self._ranks > 1:
            with suppress(DistError):  # the store may be gone by now
                self._end(f"{self.who} was ended on rank {self._rank} by {kind.__name__}: {error}")
        elif self._ranks > 1:
            self._listener.join()  # or it might wait for a verdict that is deleted by now
            _left.extend(self._written)

    def settle(self, error: Exception | None, place: str) -> Ended | None:
        """Find out how the others fared.

        Args:
            error: What this rank failed of; None if it did not.
            place: How far it had come.

        Returns:
            None if no rank failed. How rank 0 failed, if all of them did, at the same place.

        Raises:
            RuntimeError: If only some failed, or at different places.
        """
        mine = None if error is None else Ended(type(error).__name__, str(error))
        if self._ranks == 1:
            return mine
        if self._heard:  # and the process that keeps the store may have ended since
            self._give_up(self._heard, error)
        try:
            reports = self._exchange(mine, place, error)
        except DistError as lost:
            self._give_up(f"{self.who} failed on rank {self._rank} ({mine or lost}): another rank has ended", error)
        if not reports:
            return None
        # By the number of collectives one can tell whether the next one of a rank is the next one of the others.
        if len(reports) < self._ranks or not _same(reports):
            self._give_up(_differing(self.who, reports, self._ranks), error)
        return Ended(reports[0]["error"], reports[0]["message"])

    def _exchange(self, mine: Ended | None, place: str, error: Exception | None) -> dict[int, dict[str, Any]]:
        """The reports of all ranks that failed."""
        self._report(mine, place)
        if verdict := self._verdict(failed=mine is not None):
            self._give_up(verdict, error)
        self.asked_to_end = self._store.check([f"{self._key}/asked"])
        reports = self._reports()
        failed = [f"failed/{rank}" for rank in reports]
        asked = ["asked"] * self.asked_to_end
        self._written = [f"{self._key}/{name}" for name in ("ended", "verdict", *asked, *failed)]
        return reports

    def _report(self, mine: Ended | None, place: str) -> None:
        if mine is not None:
            report = {**mine._asdict(), "place": [place, *_collectives()]}
            self._store.set(f"{self._key}/failed/{self._rank}", json.dumps(report))
        if asked_to_end():
            self._store.set(f"{self._key}/asked", "")
        if self._store.add(f"{self._key}/ended", 1) == self._ranks:
            self._end("")
            # Else a fit with an attack in each step would fill the memory of the process that keeps the store.
            for key in _left:
                self._store.delete_key(key)
        _left.clear()

    def _reports(self) -> dict[int, dict[str, Any]]:
        """Of the ranks that have failed so far, by rank."""
        keys = {rank: f"{self._key}/failed/{rank}" for rank in range(self._ranks)}
        return {rank: json.loads(self._store.get(key)) for rank, key in keys.items() if self._store.check([key])}

    def _verdict(self, *, failed: bool) -> str:
        """Why the work is over for all; empty if every rank has come here."""
        # A rank that did not fail waits as long as it would in a collective: the others may be slower.
        until = time.monotonic() + (GRACE if failed else self._store.timeout.total_seconds())
        while not self._heard and not self._store.check([f"{self._key}/verdict"]):
            if time.monotonic() > until:
                self._end(_differing(self.who, self._reports(), self._ranks))
            time.sleep(_PULSE)
        return self._heard or self._read()

    def _read(self) -> str:
        return str(json.loads(self._store.get(f"{self._key}/verdict")))

    def _end(self, verdict: str) -> None:
        """Say once for all why the work is over. Of several verdicts the first one counts."""
        self._store.compare_set(f"{self._key}/verdict", "", json.dumps(verdict))
        if verdict:
            time.sleep(_HEARD)  # this process may be about to end, and to take the store with it

    def _listen(self) -> None:
        """Learn of the verdict in the background: whoever waits in a collective may later find no store to ask."""
        with suppress(DistError):
            while not self._heard and not self._over.wait(_HEARD / 4):
                if self._store.check([f"{self._key}/verdict"]):
                    self._heard = self._read()

    def _give_up(self, verdict: str, error: Exception | None) -> NoReturn:
        # What runs on an exception, such as saving a checkpoint, waits at barriers: without a group, for nobody.
        distributed.distributed_c10d._abort_process_group()
        raise RuntimeError(verdict) from error


def _collectives() -> list[int]:
    """How many collectives this process has entered, in each of its groups."""
    groups: Any = distributed.distributed_c10d._world.pg_map  # torch has no public way to count them
    return [group._get_sequence_number_for_group() for group in groups]


def _same(reports: Mapping[int, Mapping[str, Any]]) -> bool:
    places = [report["place"] for report in reports.values()]
    return all(place == places[0] for place in places)


def _differing(who: str, reports: Mapping[int, Mapping[str, Any]], ranks: int) -> str:
    failed = ", ".join(f"on rank {rank} ({r['error']}: {r['message']})" for rank, r in reports.items())
    others = ", ".join(f"{rank}" for rank in range(ranks) if rank not in reports)
    where = f"but not on rank {others}" if others else "at different places"
    return (
        f"{who} should fail on every rank or on none: ranks that go on alone wait for each other. Found that it failed "
        f"{failed or 'nowhere'}, {where}. Mend it, or leave it out."
    )
