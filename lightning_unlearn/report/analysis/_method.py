"""Which kind of method it was, from what it really changed."""

from collections.abc import Sequence

from lightning_unlearn.observation import Change
from lightning_unlearn.report.schema import Method

MOST = 0.5
"""A method that changed more than this share of the weights is a global one."""
_ADDED = ("lora_", "adapter", "prompt_encoder", "ia3_")


def method_of(changes: Sequence[Change], *, objective: str = "", edits: Sequence[str] = ()) -> Method:
    """Declared and measured.

    The classes are those of a survey of digital forgetting: the weights as a whole, some of them, or the architecture.

    Args:
        changes: How far each tensor is from the original's.
        objective: What was minimised.
        edits: Edits that were made at once.

    Example:
        >>> method_of([Change("a", 3, True, True, 1.0), Change("b", 1, False, False, 0.0)]).measured
        0.75

    References:
        Blanco-Justicia et al., `Digital Forgetting in Large Language Models: A Survey of Unlearning Methods
        <https://arxiv.org/abs/2404.02062>`_, 2024.
    """
    if not changes:
        return Method(objective=objective, edits=list(edits))
    measured = _share(changes, [change.share if change.changed else 0.0 for change in changes])
    undeclared = [change.tensor for change in changes if change.changed and not change.trainable]
    return Method(
        _kind(changes, measured),
        objective=objective,
        edits=list(edits),
        declared=_share(changes, [float(change.trainable) for change in changes]),
        measured=measured,
        undeclared=[] if edits else undeclared,
    )


def _kind(changes: Sequence[Change], measured: float) -> str:
    changed = [change for change in changes if change.changed]
    if not changed:
        return "none"
    if all(any(part in change.tensor for part in _ADDED) for change in changed):
        return "architecture"
    return "global" if measured > MOST else "local"


def _share(changes: Sequence[Change], shares: Sequence[float]) -> float:
    elements = sum(change.elements for change in changes)
    return sum(c.elements * share for c, share in zip(changes, shares, strict=True)) / max(1, elements)
