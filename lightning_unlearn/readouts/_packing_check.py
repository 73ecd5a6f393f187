"""Is a packed prediction that of the rows? Asked of the network itself, at sizes that no batch has passed yet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from lightning_unlearn.prediction import IGNORED, Prediction
from lightning_unlearn.runtime import is_sharded, on_every_rank, unnoticed

Reading = Callable[[nn.Module, Any], Prediction]
Tokens = Callable[[], Tensor]

_POSITIONS = 128
"""About how many predictions are compared: all of a long sequence would be gigabytes of logits."""

# Rotations and softmax are computed in float32 whatever the weights are.
_SHARES = {torch.float64: 1e-5, torch.float32: 1e-5, torch.float16: 0.02, torch.bfloat16: 0.05}
_AGAIN = frozenset(8**k for k in range(2, 12))
"""When it is asked again, by how often packing was wanted: weights that were zero at first may be so no longer."""


class Sizes(NamedTuple):
    """How far packing goes.

    Args:
        length: Tokens of the packed sequence.
        row: Tokens of the longest row.
    """

    length: int
    row: int

    def covers(self, other: Sizes) -> bool:
        """Whether both sizes are at least those of ``other``."""
        return self.length >= other.length and self.row >= other.row

    def up_to_powers(self, longest_row: int) -> Sizes:
        """The next powers of two, with room for several rows; none of them is longer than ``longest_row``."""
        row = max(self.row, min(_power(self.row), longest_row))
        return Sizes(max(_power(self.length), 2 * row), row)


@dataclass
class Verdict:
    """What is known of one network.

    Args:
        upto: The sizes up to which packing was found exact.
        exact: Whether it was exact whenever it was asked. Once it was not, it is never asked again.
        final: Whether larger sizes are not asked: they are read plainly.
        used: How often packing was wanted.
    """

    upto: Sizes = field(default_factory=lambda: Sizes(0, 0))
    exact: bool = True
    final: bool = False
    used: int = 0


# By network: what is exact for one may not be for another. Weak, so that it keeps no network alive.
_verdicts: WeakKeyDictionary[nn.Module, dict[str, Verdict]] = WeakKeyDictionary()


# What checks ask. A check reads larger batches than the fit: found out by it, the fit would pack other ones than without it.
_verdicts_of_checks: WeakKeyDictionary[nn.Module, dict[str, Verdict]] = WeakKeyDictionary()
_in_check: ContextVar[bool] = ContextVar("in_check", default=False)


def verdicts_of(network: nn.Module) -> dict[str, Verdict]:
    """What is known of ``network``, by its kind of attention."""
    return (_verdicts_of_checks if _in_check.get() else _verdicts).setdefault(network, {})


def is_packed_exactly(network: nn.Module) -> bool:
    """Whether ``network`` was asked, and found exact: rows of a batch do not depend on each other."""
    return any(verdict.exact and verdict.upto.length for verdict in verdicts_of(network).values())


@contextmanager
def packing_decided_apart() -> Iterator[None]:
    """What is read inside decides nothing about what is packed outside, and the other way round."""
    before = _in_check.set(True)
    try:
        yield
    finally:
        _in_check.reset(before)


@dataclass(frozen=True)
class PackingCheck:
    """Decides whether a network may be packed, by comparing both ways to read rows that are made for it.

    The rows share a quarter of their tokens; the last ones lie farthest from what they share. They are as large as the
    next power of two, so that nothing that any smaller batch does is new: a window, a chunk or a table that ends before
    them shows. Small rows come first: a network that counts its own positions is found there, and not by an index error.

    Args:
        plain: Reads rows as they are.
        packed: Reads them as one sequence.
    """

    plain: Reading
    packed: Reading

    def allows(self, network: nn.Module, needed: Sizes, longest_row: int, tokens: Tokens, how: str) -> bool:
        """Whether ``network`` may be packed up to the ``needed`` sizes.

        Args:
            network: The network.
            needed: Of the batch.
            longest_row: That the network takes: its window, its table of positions.
            tokens: Gives some that it knows, ``[n]``.
            how: Its kind of attention, since each kind is another computation.
        """
        verdict = verdicts_of(network).setdefault(how, Verdict())
        verdict.used += 1
        new = not verdict.upto.covers(needed) or verdict.used in _AGAIN
        if new and verdict.exact and not verdict.final:
            verdict.exact = self._tried(network, verdict, needed, longest_row, tokens)
        return verdict.exact and verdict.upto.covers(needed)

    def agree(self, network: nn.Module, needed: Sizes, longest_row: int, tokens: Tokens, how: str) -> None:
        """Decide once and for all ranks, for batches as large as any rank ``needed``, up to the next powers of two.

        Collective: where parameters are sharded all ranks have to run the network equally often.
        """
        if how in verdicts_of(network) or not is_sharded(network):
            return
        largest = Sizes(*map(max, zip(*on_every_rank(needed), strict=True)))
        verdict = verdicts_of(network).setdefault(how, Verdict(final=True))
        exact = self._tried(network, verdict, largest, min(on_every_rank(longest_row)), tokens)
        verdict.exact = all(on_every_rank(exact))

    def _tried(self, network: nn.Module, verdict: Verdict, needed: Sizes, longest_row: int, tokens: Tokens) -> bool:
        first = Sizes(32, min(16, longest_row))
        wanted = Sizes(max(needed.length, verdict.upto.length), max(needed.row, verdict.upto.row))
        sizes = wanted.up_to_powers(longest_row)
        exact = verdict.upto.length > 0 or self._agrees(network, _rows(first, tokens()))
        if is_sharded(network):
            exact = all(on_every_rank(exact))
        exact = exact and self._agrees(network, _rows(sizes, tokens()))
        verdict.upto = sizes if exact else verdict.upto
        return exact

    def _agrees(self, network: nn.Module, batch: dict[str, Tensor]) -> bool:
        device = batch["labels"].device.type
        # In the precision of the weights: mixed precision would hide what is smaller than its digits.
        for context in (torch.autocast(device, enabled=False), nullcontext()):
            try:
                with context, unnoticed(network):
                    return self._compared(network, batch)
            except Exception:  # of any kind: it may refuse a four-dimensional mask, or to run without autocast
                continue
        return False

    def _compared(self, network: nn.Module, batch: dict[str, Tensor]) -> bool:
        half = len(batch["labels"]) // 2
        whole, packed = self.plain(network, batch), self.packed(network, batch)
        halves = [self.plain(network, {k: v[part] for k, v in batch.items()}) for part in _around(half)]
        logits = whole.logits.float()
        scale = float(logits.square().mean().sqrt())
        noise = _worst(torch.cat([part.logits for part in halves]).float() - logits)
        rounding = _rounding(network, whole.logits.dtype)
        # Rows that depend on others in their batch, or a head of zeros: there is nothing to be equal to.
        if not noise <= max(rounding, 1e-4) * scale or scale == 0:
            return False
        same_labels = torch.equal(packed.labels, whole.labels)
        return same_labels and _worst(packed.logits.float() - logits) <= 4 * noise + rounding * scale


def _rows(sizes: Sizes, tokens: Tensor) -> dict[str, Tensor]:
    """Rows that are ``sizes.length`` tokens when they are packed, the longest of ``sizes.row``."""
    length, row = sizes
    shared = max(1, row // 4)
    own = row - shared
    # The first row whole, then what the others do not share. One that would be a single token joins the row before.
    count = 1 + max(1, -(-(length - row) // own))
    generator = torch.Generator().manual_seed(length)
    known = tokens.detach().cpu().unique()
    ids = known[torch.randint(len(known), (count, row), generator=generator)].to(tokens.device)
    ids[:, :shared] = ids[:1, :shared]
    kept = torch.full((count,), row, device=tokens.device)
    kept[-1] = shared + max(1, length - row - (count - 2) * own)
    columns = torch.arange(row, device=tokens.device)
    mask = (columns < kept[:, None]).long()
    # The prediction after the shared part, that of the last token, and some between them.
    step = max(1, count * own // _POSITIONS)
    seen = ((columns - shared) % step == 0) | (columns == kept[:, None] - 1)
    supervised = (columns >= shared) & seen & (mask > 0)
    supervised[:, shared] |= True
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(~supervised, IGNORED)}


def _around(half: int) -> tuple[slice, slice]:
    return slice(None, half), slice(half, None)


def _worst(differences: Tensor) -> float:
    """The largest of the mean differences at each position, ``[N, V]``."""
    return float(differences.square().mean(1).sqrt().max())


def _rounding(network: nn.Module, computed: torch.dtype) -> float:
    """How far two ways to sum may be apart, as a share of the logits; some ten times what was seen over sixteen layers."""
    device = next((p.device.type for p in network.parameters()), "cpu")
    # Weights in few bits are not of floating point; what is computed with them is of half precision.
    kinds = {computed, *(p.dtype if p.is_floating_point() else torch.bfloat16 for p in network.parameters())}
    if torch.is_autocast_enabled(device):
        kinds.add(torch.get_autocast_dtype(device))
    if device == "cuda" and torch.get_float32_matmul_precision() != "highest":
        kinds.add(torch.float16)  # TF32 has as many digits
    return max(_SHARES.get(kind, _SHARES[torch.bfloat16]) for kind in kinds)


def _power(number: int) -> int:
    """The next power of two."""
    return 1 << max(0, number - 1).bit_length()
