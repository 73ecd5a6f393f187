from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from lightning_unlearn.data import ForgetStream
from lightning_unlearn.runtime import hash_of, on_every_rank


@dataclass
class WaitingBatch:
    """A forget micro-batch on the CPU.

    Args:
        seed: Of the random numbers that are drawn for it.
        batch: The micro-batch.
        contents: Keys of its examples, from a micro-batch.
    """

    seed: int
    batch: Any
    contents: Callable[[Any], list[str]]

    @cached_property
    def keys(self) -> frozenset[str]:
        """What is in it."""
        return frozenset(self.contents(self.batch))


class BatchWindow:
    """A forget stream, with the micro-batches just before and after the current ones at hand.

    An attacker in the loop trains on these. They are a pure function of the stream's position, so that a resumed fit finds
    the same.

    Args:
        stream: The forget data.
        seeds: From which each micro-batch gets a seed of its own, together with its position.
        contents: Keys of the examples of a micro-batch.
        reach: How many micro-batches are at hand on either side; 0 for none.
    """

    def __init__(
        self, stream: ForgetStream, seeds: tuple[int, ...], contents: Callable[[Any], list[str]], reach: int
    ) -> None:
        self._stream, self._seeds, self._contents, self._reach = stream, seeds, contents, reach
        self._behind: deque[WaitingBatch] = deque()
        self._ahead: deque[WaitingBatch] = deque()
        self._has_warned = False

    @property
    def position(self) -> int:
        """How many micro-batches were given out since the start of training."""
        return self._stream.position - len(self._ahead)

    def seek(self, position: int) -> None:
        """Go to micro-batch number ``position``."""
        self._ahead.clear()
        self._behind.clear()
        self._stream.seek(max(0, position - self._reach))
        while self._stream.position < position:
            self._behind.append(self._draw())

    def take(self, count: int) -> list[WaitingBatch]:
        """The next micro-batches."""
        taken = [self._ahead.popleft() if self._ahead else self._draw() for _ in range(count)]
        self._behind.extend(taken if self._reach else ())
        while len(self._behind) > self._reach + count:
            self._behind.popleft()
        return taken

    def following(self) -> list[WaitingBatch]:
        """The next ``reach`` micro-batches, which stay where they are."""
        while len(self._ahead) < self._reach:
            self._ahead.append(self._draw())
        return list(self._ahead)

    def others(self, taken: Sequence[WaitingBatch]) -> list[WaitingBatch]:
        """Up to ``reach`` micro-batches without an example of those that were just ``taken``. Collective.

        Where there are none, it is the one with the fewest such examples.
        """
        near = [*self.following(), *list(self._behind)[: -len(taken)][::-1]]
        shared = _examples_shared([batch.keys for batch in near], frozenset().union(*(b.keys for b in taken)))
        apart = [batch for batch, count in zip(near, shared, strict=False) if not count][: self._reach]
        if not apart and not self._has_warned:
            self._has_warned = True
            rank_zero_warn(
                "An attacker in `Unlearn(under=...)` should train on other forget examples than those that are judged. "
                f"Found none among the {len(near)} micro-batches around: the forget set is not much larger than the "
                f"{len(taken)} of a step. Use a smaller batch. The attacker now trains on some of the same examples."
            )
        return apart or [near[shared.index(min(shared))]]

    def _draw(self) -> WaitingBatch:
        seed = hash_of(*self._seeds, self._stream.position)
        return WaitingBatch(seed, next(self._stream), self._contents)


def _examples_shared(near: Sequence[frozenset[str]], taken: frozenset[str]) -> list[int]:
    """How many examples each micro-batch has in common with those that were taken, over all ranks."""
    # All ranks choose the same places of their streams: together these are the micro-batches that one process would choose.
    ranks = on_every_rank((near, taken))
    judged = frozenset().union(*(own for _, own in ranks))
    return [
        sum(len(keys & judged) for keys in together) for together in zip(*(keys for keys, _ in ranks), strict=False)
    ]
