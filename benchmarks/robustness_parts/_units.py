from __future__ import annotations

import fcntl
import gc
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from run_config import commit

from lightning_unlearn.runtime import remove_leftovers, written_whole

Found = dict[str, Any]


@dataclass(frozen=True)
class Unit:
    """A piece of work whose result is one JSON file: done once, by whichever process comes first.

    Args:
        path: Where the result is.
        work: Makes it. What it raises is kept as ``{"error": ...}``, so that one broken method stops nothing.
        needs: Units that must be done before, and without an error.
        after: Units that must be done before, with an error or without.
        seconds: What it is expected to take.
    """

    path: Path
    work: Callable[[], Found]
    needs: tuple[Unit, ...] = ()
    after: tuple[Unit, ...] = ()
    seconds: float = 0.0

    @property
    def is_done(self) -> bool:
        """Whether there is a result, or an error."""
        return self.path.exists()

    @property
    def is_ready(self) -> bool:
        """Whether everything it needs is there, and what that needs: of a unit that was unpacked the weights may not be."""
        return all(unit.is_done for unit in (*self._needed(), *self.after)) and not self.is_lost

    @property
    def is_lost(self) -> bool:
        """Whether something it needs has failed, so that it can never be done."""
        failed = any(need.is_done and "error" in need.found() for need in self.needs)
        return failed or any(need.is_lost for need in (*self.needs, *self.after))

    def found(self) -> Found:
        """The result."""
        return _read(self.path)

    def forget_error(self) -> None:
        """Remove a result that is an error, so that it is tried again."""
        if self.is_done and "error" in self.found():
            self.path.unlink(missing_ok=True)
            _read.cache_clear()

    def _needed(self) -> Iterator[Unit]:
        for need in self.needs:
            yield need
            yield from need._needed()

    def try_to_do(self) -> bool:
        """Do it, unless it is done, or another process is at it. Returns whether it was done here.

        The system releases the lock of a process that was killed, so its unit is free again.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_suffix(".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            if self.is_done:
                return False
            start = time.monotonic()
            found = self._tried()  # which may be part of another unit's result, so it is not added to
            found = {**found, "wall_s": round(time.monotonic() - start, 1), "made": _origin(), "files": self._files()}
            with written_whole(self.path) as new:
                new.write_text(json.dumps(found))
        return True

    def _files(self) -> list[str]:
        """Weights that it left beside its result, which others need."""
        stem = self.path.stem
        found = (path.name for path in self.path.parent.glob("*.safetensors"))
        return sorted(name for name in found if name.startswith((f"{stem}.", f"{stem}-")))

    def _tried(self, patience: int = 20) -> Found:
        try:
            return self.work()
        except torch.OutOfMemoryError as error:
            if not patience:
                return _said(error)
        except Exception as error:
            return _said(error)
        finally:
            _free_memory()
        # Other processes on the same card need less soon.
        time.sleep(5)
        return self._tried(patience - 1)


def made(units: Iterable[Unit]) -> list[dict[str, Any]]:
    """By what code and where the units that are done were done, with how many. Older ones do not say."""
    done = {unit.path: unit.found() for unit in units if unit.is_done}
    origins = Counter(tuple(found.get("made", {}).items()) for found in done.values())
    return [{**dict(origin), "units": count} for origin, count in origins.most_common()]


def _origin() -> dict[str, str]:
    device = torch.cuda.get_device_name() if torch.cuda.is_initialized() else "cpu"
    return {"commit": commit(), "device": device, "torch": str(torch.__version__)}


def _said(error: Exception) -> Found:
    return {"error": f"{type(error).__name__}: {error}"}


def _free_memory() -> None:
    """Give memory back, which other processes share: a trainer and its parts know each other, so only `gc` frees them."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@cache
def _read(path: Path) -> Found:
    # Results never change, and whether a unit is ready is asked again and again.
    found: Found = json.loads(path.read_text())
    return found


def do(units: Iterable[Unit]) -> None:
    """Do all units, the first that is ready first, sharing them with other processes that do the same."""
    units = list(units)
    for folder in {unit.path.parent for unit in units}:
        remove_leftovers(folder)
    while not all(unit.is_done or unit.is_lost for unit in units):
        ready = (unit for unit in units if not unit.is_done and unit.is_ready)
        done = next((unit for unit in ready if unit.try_to_do()), None)
        if done is None:
            time.sleep(0.5)  # others are at work
        else:
            _tell(done, units)


def _tell(unit: Unit, units: list[Unit]) -> None:
    found = unit.found()
    left = sum(other.seconds for other in units if not other.is_done)
    said = found.get("error", f"{found['wall_s']:.0f} s")
    print(f"{unit.path.parent.name}/{unit.path.stem}: {said}; about {left / 60:.0f} minutes left", flush=True)
