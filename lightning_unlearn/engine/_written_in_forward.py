from __future__ import annotations

from itertools import takewhile
from weakref import WeakKeyDictionary

from torch import Tensor, nn

_found: WeakKeyDictionary[nn.Module, tuple[list[tuple[int, bool]], list[Tensor]]] = WeakKeyDictionary()
"""What was found in a module, with its parameters and which of them were trained. It is asked in every step."""


def written_in_forward(module: nn.Module) -> list[Tensor]:
    """Parameters that a forward pass may write to: those that move with it, as an average; and tables with ``max_norm``.

    ``nn.Embedding(max_norm=...)`` shortens the rows that it looks up, in place.

    Example:
        >>> [len(written_in_forward(nn.Embedding(3, 2, max_norm=norm))) for norm in (None, 1.0)]
        [0, 1]
    """
    now = [(id(p), p.requires_grad) for m in module.modules() for p in m._parameters.values() if p is not None]
    before, found = _found.get(module, ([], []))
    if now != before or not now:
        tables = [m.weight for m in module.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag)) and m.max_norm]
        found = [*tables, *moving_averages(module)]
        _found[module] = now, found
    return found


def moving_averages(module: nn.Module) -> list[Tensor]:
    """Frozen parameters with a trained twin: a moving average of a part, such as a teacher or a momentum encoder.

    Twins have one shape, and one name up to the first parts: ``encoder_k.0.weight`` and ``encoder_q.0.weight``. Layers of
    one network that differ in a number, one frozen and one trained, are no twins.

    Example:
        >>> module = nn.ModuleDict({"fast": nn.Linear(2, 2), "slow": nn.Linear(2, 2).requires_grad_(False)})
        >>> [len(average) for average in moving_averages(module)]
        [2, 2]
        >>> moving_averages(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False)))
        []
    """
    named = list(module.named_parameters())
    trained = [(name.split("."), p.shape) for name, p in named if p.requires_grad]
    shapes = {shape for _, shape in trained}
    # By shape first, for names take longer: beside adapters, thousands of frozen weights have no twin.
    frozen = [(name.split("."), p) for name, p in named if not p.requires_grad and p.shape in shapes]
    if not frozen:
        return []
    ends = {(*parts[i:], shape) for parts, shape in trained for i in range(len(parts))}
    return [p for parts, p in frozen if any((*parts[i:], p.shape) in ends for i in _starts(parts))]


def _starts(parts: list[str]) -> range:
    """Where the common part of two twins' names may start: not behind a number."""
    words = list(takewhile(lambda part: not part.isdigit(), parts[:-1]))
    return range(len(words) + 1)
